//! SQLite as the embedded database: write-ahead log, one writer, several readers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlSafeStr, SqlitePool};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::places::{FOR_PINGS, Places};
use crate::transaction::BEGIN_TIMEOUT;
use crate::{BoundedTransaction, Lease, OpenError, PingError, StoreError, tolerate_newer};

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
    write_places: Places,
    read_places: Places,
    written: Arc<WriteChecks>,
}

/// What the health checks have found about writing.
#[derive(Debug, Default)]
struct WriteChecks {
    last: Mutex<Option<Instant>>,
    failing: AtomicBool,
    /// Transactions that had been committed at the last one.
    committed: AtomicU64,
}

impl WriteChecks {
    /// Whether it is time to write again; notes that it is done.
    fn are_due(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = self.failing.load(Ordering::Relaxed)
            || last.is_none_or(|last| now.duration_since(last) >= WRITE_CHECK_INTERVAL);
        if due {
            *last = Some(now);
        }
        due
    }

    /// Whether transactions were committed since the last check; notes how many there are now.
    fn others_have(&self, committed: u64) -> bool {
        self.committed.swap(committed, Ordering::Relaxed) != committed
    }
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
            .busy_timeout(BUSY_TIMEOUT);
        let pool = |size| SqlitePoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await?;
        tolerate_newer(&mut migrations);
        migrations.run(&writer).await?;
        let readers = pool(READERS + FOR_PINGS).connect_lazy_with(options.read_only(true));
        let (write_places, read_places) = (Places::new("write", 1), Places::new("read", READERS));
        Ok(Self { writer, readers, write_places, read_places, written: Arc::default() })
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
        let count = sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(reader.statements()).await;
        count.map_err(unreachable)?;
        if !self.written.are_due(Instant::now()) {
            return Ok(());
        }
        // Whoever asks may not wait for as long as a disk that hangs takes.
        self.written.failing.store(true, Ordering::Relaxed);
        let written = self.write_nothing().await;
        let others_have_written = self.written.others_have(self.write_places.committed());
        match written {
            Ok(()) => {}
            // There is no room among those who write, and they get on.
            Err(StoreError::Busy | StoreError::NotBegun | StoreError::Expired) if others_have_written => {}
            Err(error) => return Err(PingError::NotWritable(Some(error))),
        }
        self.written.failing.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Commits a page that is what it was.
    async fn write_nothing(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin(Instant::now() + WRITE_CHECK_TIMEOUT).await?;
        // A number that SQLite keeps for its users, who have no use for it here.
        sqlx::query("PRAGMA user_version = 1").execute(transaction.statements()).await?;
        transaction.commit().await
    }
}
