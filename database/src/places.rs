//! Who may use a connection: everybody in their turn, and nobody who would wait for long.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Database;
use sqlx::pool::{Pool, PoolConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::StoreError;

/// How long a request may wait for its turn. Who would wait for longer is refused while there is time to do
/// something else: a queue that takes all the time its callers have does work for nobody.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Connections beside the places, for who only asks whether the database answers.
pub(crate) const FOR_PINGS: u32 = 1;

/// As many places as there are connections, so that waiting for a connection means waiting for the database.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new(connections: u32) -> Self {
        Self(Arc::new(Semaphore::new(usize::try_from(connections).unwrap_or(usize::MAX))))
    }

    /// Waits for a place, first come, first served.
    pub(crate) async fn take(&self, deadline: Option<Instant>) -> Result<OwnedSemaphorePermit, StoreError> {
        let patience = Instant::now() + LONGEST_WAIT;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        match tokio::time::timeout_at(until, Arc::clone(&self.0).acquire_owned()).await {
            // The semaphore is never closed.
            Ok(place) => place.map_err(|_| StoreError::Busy),
            Err(_) => Err(StoreError::Busy),
        }
    }

    /// A connection for statements that stand alone.
    pub(crate) async fn connect<DB: Database>(&self, pool: &Pool<DB>) -> Result<Lease<DB>, StoreError> {
        let place = self.take(None).await?;
        Ok(Lease { connection: pool.acquire().await?, _place: place })
    }
}

/// A connection, for as long as this is held.
pub struct Lease<DB: Database> {
    connection: PoolConnection<DB>,
    _place: OwnedSemaphorePermit,
}

impl<DB: Database> Deref for Lease<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: Database> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}
