//! A worker's database, whichever of the two it is: the stores are written once.

use sqlx::migrate::Migrator;
use tokio::time::Instant;
use uuid::Uuid;

use crate::instrumented::InstrumentedConnection;
use crate::{
    BoundedTransaction, DatabaseUrl, OpenError, PingError, PooledConnection, Postgres, Sqlite, StoreError,
};

/// Which SQL a database takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// Postgres'.
    Postgres,
}

/// The migrations of one schema in both dialects.
#[derive(Debug)]
pub struct Migrations {
    /// For SQLite.
    pub sqlite: Migrator,
    /// For Postgres.
    pub postgres: Migrator,
}

/// An open database. Cloning shares its connections.
#[derive(Debug, Clone)]
pub enum Database {
    /// A file.
    Sqlite(Sqlite),
    /// A server.
    Postgres(Postgres),
}

/// A connection for statements that only read, each on its own.
pub enum Reader {
    /// To a file.
    Sqlite(PooledConnection<sqlx::Sqlite>),
    /// To a server.
    Postgres(PooledConnection<sqlx::Postgres>),
    /// To a server, which answers as of one moment.
    PostgresSnapshot(BoundedTransaction<sqlx::Postgres>),
}

/// A transaction with a deadline. Dropping it undoes it.
pub enum Transaction {
    /// In a file.
    Sqlite(BoundedTransaction<sqlx::Sqlite>),
    /// On a server.
    Postgres(BoundedTransaction<sqlx::Postgres>),
}

/// What a [`Query`](crate::Query) runs on: a [`Reader`] or a [`Transaction`].
#[derive(Debug)]
pub enum Executor<'c> {
    /// SQLite.
    Sqlite(InstrumentedConnection<'c, sqlx::Sqlite>),
    /// Postgres.
    Postgres(InstrumentedConnection<'c, sqlx::Postgres>),
}

impl Database {
    /// Opens it and brings its schema up to date. Waits for a server that is not up yet, to which there are at
    /// most `connections` at once, each with up to `statement_cache` prepared statements.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        url: DatabaseUrl,
        connections: u32,
        statement_cache: usize,
        migrations: Migrations,
    ) -> Result<Self, OpenError> {
        Ok(match url {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(Sqlite::open(&path, migrations.sqlite).await?),
            DatabaseUrl::Postgres(options) => Self::Postgres(
                Postgres::open(*options, connections, statement_cache, migrations.postgres).await?,
            ),
        })
    }

    /// Asks whether it answers and takes changes.
    ///
    /// # Errors
    /// [`PingError`].
    pub async fn ping(&self) -> Result<(), PingError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.ping().await,
            Self::Postgres(postgres) => postgres.ping().await,
        }
    }

    /// A connection for look-ups by key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reader(&self) -> Result<Reader, StoreError> {
        Ok(match self {
            Self::Sqlite(sqlite) => Reader::Sqlite(sqlite.reader().await?),
            Self::Postgres(postgres) => Reader::Postgres(postgres.connection().await?),
        })
    }

    /// A connection for statements that may take long, and that belong together: Postgres answers them as of one
    /// moment, plans them for their values, and gives them up at `deadline`.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Expired`] when the deadline has passed.
    pub async fn snapshot(&self, deadline: Instant) -> Result<Reader, StoreError> {
        Ok(match self {
            Self::Sqlite(sqlite) => Reader::Sqlite(sqlite.reader().await?),
            Self::Postgres(postgres) => Reader::PostgresSnapshot(postgres.begin_reading(deadline).await?),
        })
    }

    /// The SQL it takes.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Begins a transaction whose statements the database gives up at `deadline`.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Expired`] when the deadline has passed.
    pub async fn begin(&self, deadline: Instant) -> Result<Transaction, StoreError> {
        Ok(match self {
            Self::Sqlite(sqlite) => Transaction::Sqlite(sqlite.begin(deadline).await?),
            Self::Postgres(postgres) => Transaction::Postgres(postgres.begin(deadline).await?),
        })
    }

    /// Begins a transaction that may change rows of one organisation. Postgres' policies hold it to that.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn begin_for(&self, organization: Uuid, deadline: Instant) -> Result<Transaction, StoreError> {
        Ok(match self {
            Self::Sqlite(sqlite) => Transaction::Sqlite(sqlite.begin(deadline).await?),
            Self::Postgres(postgres) => {
                Transaction::Postgres(postgres.begin_for(organization, deadline).await?)
            }
        })
    }
}

impl Transaction {
    /// Lets the rest of it change rows of one organisation. Postgres' policies hold it to that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn act_for(&mut self, organization: Uuid) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(transaction) => Ok(crate::act_for(transaction.executor(), organization).await?),
        }
    }

    /// Makes it visible and durable, unless the deadline has passed: the caller has been answered that it took too
    /// long, and may do something else meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Expired`], with everything undone; [`StoreError::Commit`] when it is unknown whether it
    /// took effect.
    pub async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
    }
}

impl<'c> From<&'c mut Reader> for Executor<'c> {
    fn from(reader: &'c mut Reader) -> Self {
        match reader {
            Reader::Sqlite(connection) => Self::Sqlite(connection.executor()),
            Reader::Postgres(connection) => Self::Postgres(connection.executor()),
            Reader::PostgresSnapshot(transaction) => Self::Postgres(transaction.executor()),
        }
    }
}

impl<'c> From<&'c mut Transaction> for Executor<'c> {
    fn from(transaction: &'c mut Transaction) -> Self {
        match transaction {
            Transaction::Sqlite(transaction) => Self::Sqlite(transaction.executor()),
            Transaction::Postgres(transaction) => Self::Postgres(transaction.executor()),
        }
    }
}
