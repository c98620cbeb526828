//! SQLite as the embedded database: write-ahead log, one writer, several readers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlSafeStr, SqlitePool};
use tokio::time::Instant;

use crate::admission::{Admission, FOR_PINGS};
use crate::connection::Connection;
use crate::transaction::BEGIN_TIMEOUT;
use crate::{BoundedTransaction, OpenError, PingError, PooledConnection, StoreError, tolerate_newer};

/// Connections for reading; they never wait for the writer.
const READERS: u32 = 4;
/// How long a request may wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement waits for a lock that another process holds: within the time a transaction has to begin.
const BUSY_TIMEOUT: Duration = BEGIN_TIMEOUT.saturating_sub(Duration::from_millis(200));
/// How often a health check writes while the last one succeeded. Each costs a page and a sync of the log.
const WRITE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the health check may wait for its turn to write.
const WRITE_CHECK_TIMEOUT: Duration = Duration::from_millis(700);

/// An open SQLite file. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    write_places: Admission,
    read_places: Admission,
    write_checks: Arc<Mutex<WriteChecks>>,
}

/// What the health checks have found about writing.
#[derive(Debug, Default)]
struct WriteChecks {
    /// When the last one began.
    begun: Option<Instant>,
    found: Found,
    /// Transactions that had been committed at its end; `None` before the first one.
    committed: Option<u64>,
}

/// How the last check ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Found {
    #[default]
    Writable,
    NotWritable,
    /// It has not: the caller did not wait for as long as the disk takes.
    Nothing,
}

impl WriteChecks {
    /// Begins a check if it is time for one. Otherwise the last one says how it is.
    fn begin(&mut self, now: Instant) -> Result<bool, PingError> {
        let is_recent = self.begun.is_some_and(|begun| now.duration_since(begun) < WRITE_CHECK_INTERVAL);
        match self.found {
            Found::Writable if is_recent => Ok(false),
            // Asked again at once, a slow disk would be busy with being asked.
            Found::Nothing if is_recent => Err(PingError::NotWritable(None)),
            _ => {
                (self.begun, self.found) = (Some(now), Found::Nothing);
                Ok(true)
            }
        }
    }

    /// Ends it, with the number of transactions that are committed by now.
    fn end(&mut self, written: Result<(), StoreError>, committed: u64) -> Result<(), PingError> {
        let before = self.committed.replace(committed);
        let others_have_written = before != Some(committed);
        let result = match written {
            // There is no room among those who write, and they get on, or have only just begun.
            Err(StoreError::Busy | StoreError::NotBegun | StoreError::Expired) if others_have_written => {
                Ok(())
            }
            written => written.map_err(|error| PingError::NotWritable(Some(error))),
        };
        self.found = if result.is_ok() { Found::Writable } else { Found::NotWritable };
        result
    }
}

impl Sqlite {
    /// Opens or creates `path` and brings its schema up to date; several processes may do so at once.
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
            .busy_timeout(BUSY_TIMEOUT);
        let pool = |size| SqlitePoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await?;
        tolerate_newer(&mut migrations);
        // The migrator has no lock of its own here, and sees what is missing before it begins to write.
        let mut migrating = writer.begin_with("BEGIN IMMEDIATE").await.map_err(StoreError::from)?;
        migrations.run_direct(None, &mut *migrating, false).await?;
        migrating.commit().await.map_err(StoreError::from)?;
        let readers = pool(READERS + FOR_PINGS).connect_lazy_with(options.read_only(true));
        let (write_places, read_places) = (Admission::new("write", 1), Admission::new("read", READERS));
        Ok(Self { writer, readers, write_places, read_places, write_checks: Arc::default() })
    }

    /// A connection for statements that only read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reader(&self) -> Result<PooledConnection<sqlx::Sqlite>, StoreError> {
        self.read_places.connect(&self.readers).await
    }

    /// Begins a transaction that holds the write lock from its first statement on: it never fails
    /// half way for want of the lock.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin(&self, deadline: Instant) -> Result<BoundedTransaction<sqlx::Sqlite>, StoreError> {
        let begin = "BEGIN IMMEDIATE".into_sql_str();
        BoundedTransaction::begin(&self.write_places, &self.writer, begin, deadline).await
    }

    /// Whether the file can be read, and every few seconds, whether it can be written: a full disk shows itself
    /// only to those who write.
    ///
    /// # Errors
    /// [`PingError`].
    pub async fn ping(&self) -> Result<(), PingError> {
        // Counts the schema's objects: a constant would not touch the file.
        let unreachable = |error: sqlx::Error| PingError::Unreachable(error.into());
        let mut reader = Connection::acquire(&self.readers, &self.read_places).await.map_err(unreachable)?;
        let count = sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(reader.executor()).await;
        count.map_err(unreachable)?;
        if !self.write_checks.lock().begin(Instant::now())? {
            return Ok(());
        }
        let written = self.write_nothing().await;
        self.write_checks.lock().end(written, self.write_places.committed())
    }

    /// Commits a page that is what it was.
    async fn write_nothing(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin(Instant::now() + WRITE_CHECK_TIMEOUT).await?;
        // A number that SQLite keeps for its users, who have no use for it here.
        sqlx::query("PRAGMA user_version = 1").execute(transaction.executor()).await?;
        transaction.commit().await
    }
}
