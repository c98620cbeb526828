//! Admission to a pool's connections: first come, first served, and refused rather than kept waiting for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{Database, Pool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::StoreError;
use crate::connection::{Connection, Suspicion};
use crate::instrumented::InstrumentedConnection;
use crate::metrics::{PoolName, Used};

/// How long a request may wait for its turn. Who would wait for longer is refused while there is time to do
/// something else: a queue that takes all the time its callers have does useless work.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Connections beside the places, for who only asks whether the database answers.
pub(crate) const FOR_PINGS: u32 = 1;

/// As many places as there are connections, so that waiting for a connection means waiting for the database.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    free: Arc<Semaphore>,
    pool: PoolName,
    pub(crate) suspicion: Suspicion,
    /// Whether the server keeps a prepared statement for the connection that prepared it. Behind a pooler that
    /// gives each transaction another server connection, nothing outlives a transaction.
    pub(crate) keeps_statements: bool,
    committed: Arc<AtomicU64>,
}

/// A place that is taken.
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
    _used: Used,
    committed: Arc<AtomicU64>,
}

impl Permit {
    /// Counts a transaction that was committed.
    pub(crate) fn has_committed(&self) {
        self.committed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(pool: &'static str, connections: u32) -> Self {
        let (pool, free) = (PoolName(pool), usize::try_from(connections).unwrap_or(usize::MAX));
        pool.holds(connections);
        Self {
            free: Arc::new(Semaphore::new(free)),
            pool,
            suspicion: Suspicion::default(),
            keeps_statements: true,
            committed: Arc::default(),
        }
    }

    /// How many transactions were committed from these places.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits for a place, first come, first served.
    pub(crate) async fn take(&self, deadline: Option<Instant>) -> Result<Permit, StoreError> {
        let waiting = self.pool.waiting();
        let give_up_at = Instant::now() + LONGEST_WAIT;
        let until = deadline.map_or(give_up_at, |deadline| deadline.min(give_up_at));
        let permit = tokio::time::timeout_at(until, Arc::clone(&self.free).acquire_owned()).await;
        drop(waiting);
        match permit {
            Ok(Ok(permit)) => Ok(Permit {
                _permit: permit,
                _used: self.pool.used(),
                committed: Arc::clone(&self.committed),
            }),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => {
                self.pool.refused();
                Err(StoreError::Busy)
            }
        }
    }

    /// A connection for statements that stand alone.
    pub(crate) async fn connect<DB: Database>(
        &self,
        pool: &Pool<DB>,
    ) -> Result<PooledConnection<DB>, StoreError> {
        let permit = self.take(None).await?;
        Ok(PooledConnection { connection: Connection::acquire(pool, self).await?, _permit: permit })
    }
}

/// A connection, for as long as this is held.
pub struct PooledConnection<DB: Database> {
    pub(crate) connection: Connection<DB>,
    _permit: Permit,
}

impl<DB: Database> PooledConnection<DB> {
    /// The connection, to run a statement on.
    pub fn executor(&mut self) -> InstrumentedConnection<'_, DB> {
        self.connection.executor()
    }
}
