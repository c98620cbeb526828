//! A transaction that is not committed once its caller's time is over.

use std::time::Duration;

use contract::begin_by;
use failpoint::stall_point;
use sqlx::{Database, Pool, SqlStr};
use tokio::time::Instant;

use crate::StoreError;
use crate::admission::{Admission, Permit};
use crate::connection::Connection;
use crate::instrumented::InstrumentedConnection;
use crate::metrics::Measured;

/// How long a transaction may take to begin: a database that another process has locked does not become free by
/// waiting, and the caller is answered while there is time to do something else.
pub(crate) const BEGIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A transaction with a deadline. Dropping it undoes it.
pub struct BoundedTransaction<DB: Database> {
    connection: Connection<DB>,
    deadline: Instant,
    place: Permit,
}

impl<DB: Database> BoundedTransaction<DB> {
    /// Waits for a place and for the transaction to begin, a second at most and never until `deadline` itself.
    pub(crate) async fn begin(
        places: &Admission,
        pool: &Pool<DB>,
        statement: SqlStr,
        deadline: Instant,
    ) -> Result<Self, StoreError> {
        let give_up = begin_by(deadline, Instant::now());
        let place = places.take(Some(give_up)).await;
        // Not even begun, when it is late already: a timeout polls what it limits at least once.
        if Instant::now() >= deadline {
            return Err(StoreError::Expired);
        }
        let place = place?;
        let mut measured = Measured::transaction::<DB>("BEGIN");
        let begin = async {
            let mut connection = Connection::acquire(pool, places).await?;
            connection.begin(statement).await?;
            Ok(connection)
        };
        let begun = tokio::time::timeout_at(give_up.min(Instant::now() + BEGIN_TIMEOUT), begin).await;
        let begun = begun.map_err(|_| StoreError::NotBegun)?;
        let connection = begun.inspect_err(|error| measured.failed(error))?;
        measured.succeeded();
        Ok(Self { connection, deadline, place })
    }

    /// The connection, to run a statement on.
    pub fn executor(&mut self) -> InstrumentedConnection<'_, DB> {
        self.connection.executor()
    }

    /// Commits, unless the deadline has passed: the caller has been answered that it took too long, and may do
    /// something else meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Expired`], with everything undone; otherwise as [`StoreError::commit`].
    pub async fn commit(self) -> Result<(), StoreError> {
        if Instant::now() >= self.deadline {
            return Err(StoreError::Expired);
        }
        let mut measured = Measured::transaction::<DB>("COMMIT");
        stall_point!("commit-stalls");
        let committed = self.connection.commit().await.inspect_err(|error| measured.failed(error));
        if committed.is_ok() {
            measured.succeeded();
            self.place.has_committed();
        }
        committed.map_err(StoreError::commit)
    }
}
