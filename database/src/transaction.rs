//! A transaction that is not committed once nobody waits for it any more.

use std::ops::{Deref, DerefMut};

use shared::stall_point;
use sqlx::{Database, Transaction};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::StoreError;
use crate::places::Places;

/// A transaction with a deadline. Dropping it undoes it.
pub struct BoundedTransaction<DB: Database> {
    transaction: Transaction<'static, DB>,
    deadline: Instant,
    _place: OwnedSemaphorePermit,
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
        let transaction =
            tokio::time::timeout_at(deadline, begun).await.map_err(|_| StoreError::Expired)??;
        Ok(Self { transaction, deadline, _place: place })
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
        stall_point!("commit-stalls");
        self.transaction.commit().await.map_err(StoreError::commit)
    }
}

impl<DB: Database> Deref for BoundedTransaction<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.transaction
    }
}

impl<DB: Database> DerefMut for BoundedTransaction<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.transaction
    }
}
