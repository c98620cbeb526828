//! A pooled connection that is closed, not given back, once an error shows that it cannot do its work.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Error, Pool, SqlStr};
use sqlx_core::transaction::TransactionManager;
use tokio::time::Instant;

use crate::admission::Admission;
use crate::instrumented::InstrumentedConnection;
use crate::leaves_usable;

/// After a connection had to be closed, those that are older than that are looked at before they are used, for
/// this long. By then each has been used or has been idle, and is looked at anyway.
const SUSPICION: Duration = Duration::from_secs(60);

/// When a connection of a pool last had to be closed: the others may lead to the same server. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suspicion(Arc<Mutex<Option<Instant>>>);

impl Suspicion {
    pub(crate) fn raise(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Whether a connection of this age was there then.
    pub(crate) fn covers(&self, age: Duration) -> bool {
        let since = *self.0.lock();
        since.map(|since| since.elapsed()).is_some_and(|since| since < SUSPICION && since < age)
    }
}

/// A connection on loan from its pool.
///
/// Whatever fails on it is judged here: unless the error is known to leave a connection in order, the pool gets
/// a new one in its place (`docs/adr/0017-connections-that-fail.md`).
pub(crate) struct Connection<DB: Database> {
    inner: PoolConnection<DB>,
    /// Closed when dropped.
    unusable: bool,
    in_transaction: bool,
    keeps_statements: bool,
    suspicion: Suspicion,
}

impl<DB: Database> Connection<DB> {
    /// Takes a connection from the pool of these places, whose others fall under suspicion when this one fails.
    pub(crate) async fn acquire(pool: &Pool<DB>, places: &Admission) -> Result<Self, Error> {
        let inner = pool.acquire().await?;
        Ok(Self {
            inner,
            unusable: false,
            in_transaction: false,
            keeps_statements: places.keeps_statements,
            suspicion: places.suspicion.clone(),
        })
    }

    /// The connection, to run a statement on.
    pub(crate) fn executor(&mut self) -> InstrumentedConnection<'_, DB> {
        InstrumentedConnection::new(&mut *self.inner, &mut self.unusable, self.keeps_statements)
    }

    /// Has the pool replace it.
    pub(crate) fn close(mut self) {
        self.unusable = true;
    }

    /// Begins a transaction with this statement.
    pub(crate) async fn begin(&mut self, statement: SqlStr) -> Result<(), Error> {
        // Given up half way, or when one of its statements failed, it is unknown whether it has begun: then the
        // connection is closed.
        self.unusable = true;
        let begun = DB::TransactionManager::begin(&mut self.inner, Some(statement)).await;
        self.unusable = begun.is_err();
        self.in_transaction = begun.is_ok();
        begun
    }

    /// Commits the transaction that was begun.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        self.unusable = true;
        let committed = DB::TransactionManager::commit(&mut self.inner).await;
        self.in_transaction = committed.is_err();
        self.unusable = committed.as_ref().is_err_and(|error| !leaves_usable(error));
        committed
    }
}

impl<DB: Database> Drop for Connection<DB> {
    fn drop(&mut self) {
        if self.unusable {
            self.suspicion.raise();
            self.inner.close_on_drop();
        } else if self.in_transaction {
            DB::TransactionManager::start_rollback(&mut self.inner);
        }
    }
}
