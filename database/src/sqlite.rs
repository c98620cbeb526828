//! SQLite as the embedded database: write-ahead log, one writer, several readers.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::time::Instant;

use crate::places::{FOR_PINGS, Places};
use crate::{BoundedTransaction, Lease, OpenError, StoreError, tolerate_newer};

/// Connections for reading; they never wait for the writer.
const READERS: u32 = 4;
/// How long a request may wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// An open SQLite file. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    write_places: Places,
    read_places: Places,
}

impl Sqlite {
    /// Opens or creates `path` and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(path: &Path, mut migrations: Migrator) -> Result<Self, OpenError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|error| OpenError::Directory(directory.to_owned(), error))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged survives a power cut, not only a killed process.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(ACQUIRE_TIMEOUT);
        let pool = |size| SqlitePoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await?;
        tolerate_newer(&mut migrations);
        migrations.run(&writer).await?;
        let readers = pool(READERS + FOR_PINGS).connect_lazy_with(options.read_only(true));
        let (write_places, read_places) = (Places::new("write", 1), Places::new("read", READERS));
        Ok(Self { writer, readers, write_places, read_places })
    }

    /// A connection for statements that only read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reader(&self) -> Result<Lease<sqlx::Sqlite>, StoreError> {
        self.read_places.connect(&self.readers).await
    }

    /// Begins a transaction that holds the write lock from its first statement on: it never fails
    /// half way for want of the lock.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin(&self, deadline: Instant) -> Result<BoundedTransaction<sqlx::Sqlite>, StoreError> {
        BoundedTransaction::begin(&self.write_places, self.writer.begin_with("BEGIN IMMEDIATE"), deadline)
            .await
    }

    /// Reads nothing, to see that the file can be read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        // Counts the schema's objects: a constant would not touch the file.
        sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&self.readers).await?;
        Ok(())
    }
}
