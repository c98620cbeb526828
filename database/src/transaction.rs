//! A transaction that is not committed once nobody waits for it any more.

use shared::stall_point;
use sqlx::{Database, Transaction};
use tokio::time::Instant;

use crate::measurements::Measured;
use crate::places::{Place, Places};
use crate::{Statements, StoreError};

/// A transaction with a deadline. Dropping it undoes it.
pub struct BoundedTransaction<DB: Database> {
    transaction: Transaction<'static, DB>,
    deadline: Instant,
    _place: Place,
}

impl<DB: Database> BoundedTransaction<DB> {
    /// Waits for a place and for `begun` until `deadline`.
    pub(crate) async fn begin(
        places: &Places,
        begun: impl Future<Output = Result<Transaction<'static, DB>, sqlx::Error>>,
        deadline: Instant,
    ) -> Result<Self, StoreError> {
        let place = places.take(Some(deadline)).await;
        // Not even begun, when it is late already: a timeout polls what it limits at least once.
        if Instant::now() >= deadline {
            return Err(StoreError::Expired);
        }
        let place = place?;
        let mut measured = Measured::transaction::<DB>("BEGIN");
        let begun = tokio::time::timeout_at(deadline, begun).await.map_err(|_| StoreError::Expired)?;
        let transaction = begun.inspect_err(|error| measured.failed(error))?;
        measured.succeeded();
        Ok(Self { transaction, deadline, _place: place })
    }

    /// The connection, for a statement.
    pub fn statements(&mut self) -> Statements<'_, DB> {
        Statements::new(&mut *self.transaction)
    }

    /// Commits, unless the deadline has passed: whoever asked has been told that it took too long, and may
    /// do something else meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Expired`], with everything undone; otherwise as [`StoreError::commit`].
    pub async fn commit(self) -> Result<(), StoreError> {
        if Instant::now() >= self.deadline {
            return Err(StoreError::Expired);
        }
        let mut measured = Measured::transaction::<DB>("COMMIT");
        stall_point!("commit-stalls");
        let committed = self.transaction.commit().await.inspect_err(|error| measured.failed(error));
        if committed.is_ok() {
            measured.succeeded();
        }
        committed.map_err(StoreError::commit)
    }
}
