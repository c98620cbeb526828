//! Postgres as the database of a team: a bounded pool, and statements that end when their caller does.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgPool, Row, SqlSafeStr};
use tokio::time::Instant;
use uuid::Uuid;

use crate::admission::{Admission, FOR_PINGS};
use crate::connection::{Connection, Suspicion};
use crate::{
    BoundedTransaction, Code, OpenError, PingError, PooledConnection, StoreError, is_refusal, meaning,
    tolerate_newer,
};

/// How long a request may wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is tried before it is used: the server may have restarted.
const TRUSTED_IDLE_TIME: Duration = Duration::from_secs(1);
/// How long a connection that is given back may take to answer; then it is closed.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections are replaced after this long, so that failed-over servers are left behind.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// Before the first connection is tried again while the server is not up.
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Whether the server takes no writes: a standby, as a former primary becomes one, or one that was set so.
const TAKES_NO_WRITES: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'";

/// Whether policies bind the user.
const IS_EXEMPT: &str = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user";

/// For which organisation a transaction changes rows.
const ACTING_ORGANIZATION: &str = "eventboard.organization_id";

/// What every connection is set to, whatever the server's defaults: a limit for look-ups by key outside of
/// transactions, none of whose operations has longer, and one for the locks of a worker that was stopped half
/// way. By statement, not at start-up: PgBouncer refuses start-up parameters that it does not know.
const SESSION: &str = "SET statement_timeout = '5s'; SET idle_in_transaction_session_timeout = '15s'";

/// The same for one look-up, where settings do not outlive a transaction.
const LOOK_UP: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '5s'; \
    SET LOCAL idle_in_transaction_session_timeout = '15s'";

/// Migrations may take longer than any request, and see what the one before them has done.
const MIGRATE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0; \
    SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '60s'";

/// One process at a time brings the schema up to date. Held until the transaction ends, not the session, which a
/// pooler may share.
const LOCK_SCHEMA: &str = "SELECT pg_advisory_xact_lock(6061746571)";

/// Makes the server connection forget the statements that were prepared on it.
const FORGET: &str = "DEALLOCATE ALL";

/// An open Postgres database. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Postgres {
    pool: PgPool,
    places: Admission,
}

/// Whether a connection may be used that was idle until now.
async fn is_usable(
    connection: &mut PgConnection,
    meta: PoolConnectionMetadata,
    suspicion: &Suspicion,
) -> Result<bool, sqlx::Error> {
    if suspicion.covers(meta.age) {
        return takes_writes(connection).await;
    }
    if meta.idle_for > TRUSTED_IDLE_TIME {
        connection.ping().await?;
    }
    Ok(true)
}

async fn takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    Ok(!connection.fetch_one(TAKES_NO_WRITES).await?.try_get::<bool, _>(0)?)
}

/// Fails when prepared statements get lost between here and the server. One of another connection with the same name
/// would be executed in its place.
async fn check_statements(options: PgConnectOptions) -> Result<(), StoreError> {
    let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = pool.connect_lazy_with(options);
    let mark = Uuid::new_v4().to_string();
    let marked = format!("SELECT '{mark}'");
    let returns_mark = async |connection: &mut PgConnection| {
        let query = sqlx::query_scalar::<_, String>(AssertSqlSafe(marked.clone()));
        match query.fetch_one(connection).await {
            Ok(returned) if returned == mark => Ok(()),
            Ok(_) | Err(sqlx::Error::ColumnDecode { .. } | sqlx::Error::RowNotFound) => {
                Err(StoreError::Pooler(sqlx::Error::Protocol("another statement was executed".into())))
            }
            Err(error) => Err(error.into()),
        }
    };
    let take_turns = async {
        let (mut one, mut other) = (pool.acquire().await?, pool.acquire().await?);
        returns_mark(&mut one).await?;
        // A pooler in transaction mode gives this one the server connection that the first one had.
        let _turn = other.begin().await?;
        returns_mark(&mut one).await
    };
    let result = match tokio::time::timeout(ACQUIRE_TIMEOUT, take_turns).await {
        Ok(Err(error @ StoreError::Pooler(_))) => Err(error),
        // Whatever else fails shows up again where it matters. Without an answer there is one connection to the
        // server, where its statements always are.
        Ok(_) | Err(_) => Ok(()),
    };
    // Nothing of these connections is waited for if they hang.
    let _ = tokio::time::timeout(RELEASE_TIMEOUT, pool.close()).await;
    result
}

/// Applies what is missing, all of it or nothing.
async fn migrate(pool: &PgPool, migrations: &Migrator, keeps_statements: bool) -> Result<(), OpenError> {
    let begun = async {
        let mut transaction = pool.begin_with(MIGRATE).await?;
        transaction.execute(LOCK_SCHEMA).await?;
        Ok(transaction)
    };
    let mut transaction = begun.await.map_err(|error: sqlx::Error| {
        if is_refusal(&error) { OpenError::Refused(error) } else { StoreError::from(error).into() }
    })?;
    // The migrator names its statements; others of these names may be on a server connection that is shared.
    if !keeps_statements {
        transaction.execute(FORGET).await?;
    }
    migrations.run_direct(None, &mut *transaction, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
            if meaning(&error) == Some(Code::Pooler) =>
        {
            StoreError::Pooler(error).into()
        }
        error => OpenError::Migrate(error),
    })?;
    if !keeps_statements {
        transaction.execute(FORGET).await?;
    }
    transaction.commit().await?;
    Ok(())
}

impl Postgres {
    /// Connects and brings the schema up to date. Waits for a server that is not up yet; several
    /// processes may do so at once.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        options: PgConnectOptions,
        connections: u32,
        statement_cache: usize,
        mut migrations: Migrator,
    ) -> Result<Self, OpenError> {
        let keeps_statements = statement_cache > 0;
        let options = options.statement_cache_capacity(statement_cache);
        tolerate_newer(&mut migrations);
        // A lock that ends with the transaction takes the place of the migrator's own, which ends with the session.
        migrations.set_locking(false);
        let migrating = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
        let migrating = migrating.connect_lazy_with(options.clone());
        loop {
            match migrate(&migrating, &migrations, keeps_statements).await {
                Ok(()) => break,
                Err(OpenError::Store(StoreError::Unavailable(error))) => {
                    tracing::warn!(%error, "waiting for Postgres");
                    tokio::time::sleep(CONNECT_RETRY_DELAY).await;
                }
                Err(error) => return Err(error),
            }
        }
        if migrating.fetch_one(IS_EXEMPT).await?.try_get(0)? {
            tracing::warn!(
                "the database user is exempt from row-level security; give the worker another one"
            );
        }
        migrating.close().await;
        if keeps_statements {
            check_statements(options.clone()).await?;
        }
        let mut places = Admission::new("all", connections);
        places.keeps_statements = keeps_statements;
        let pool = PgPoolOptions::new()
            .max_connections(connections + FOR_PINGS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .max_lifetime(MAX_LIFETIME)
            .test_before_acquire(false)
            .before_acquire({
                let suspicion = places.suspicion.clone();
                move |connection, meta| {
                    let suspicion = suspicion.clone();
                    Box::pin(async move { is_usable(connection, meta, &suspicion).await })
                }
            })
            .after_release(|connection, _| {
                Box::pin(async move {
                    // A link that was cut off without a word must not keep its place for a quarter of an hour.
                    let answer = tokio::time::timeout(RELEASE_TIMEOUT, connection.ping()).await;
                    answer.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
                })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // Where connections to the server are shared, settings are made in each transaction.
                    if keeps_statements {
                        connection.execute(SESSION).await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Ok(Self { pool, places })
    }

    /// Asks the server whether it takes writes.
    ///
    /// # Errors
    /// [`PingError`].
    pub async fn ping(&self) -> Result<(), PingError> {
        let unreachable = |error: sqlx::Error| PingError::Unreachable(error.into());
        // Past those who wait for a place: that there are many says nothing about the server.
        let mut connection = Connection::acquire(&self.pool, &self.places).await.map_err(unreachable)?;
        let read_only = connection.executor().fetch_one(TAKES_NO_WRITES).await;
        if read_only.and_then(|row| row.try_get(0)).map_err(unreachable)? {
            connection.close();
            return Err(PingError::NotWritable(None));
        }
        Ok(())
    }

    /// A connection for a single look-up by key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn connection(&self) -> Result<PooledConnection<sqlx::Postgres>, StoreError> {
        let mut lease = self.places.connect(&self.pool).await?;
        if !self.places.keeps_statements {
            // Between preparing and executing, a pooler may go on with another server connection.
            lease.connection.begin(LOOK_UP.into_sql_str()).await?;
        }
        Ok(lease)
    }

    /// Begins a transaction whose statements the server gives up at `deadline`. Dropping it undoes it.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Expired`] when the deadline has passed.
    pub async fn begin(&self, deadline: Instant) -> Result<BoundedTransaction<sqlx::Postgres>, StoreError> {
        self.begin_as("BEGIN ISOLATION LEVEL READ COMMITTED", deadline).await
    }

    /// Begins a transaction that may change rows of one organisation, as the policies of the schema say.
    ///
    /// # Errors
    /// As [`Postgres::begin`].
    pub async fn begin_for(
        &self,
        organization: Uuid,
        deadline: Instant,
    ) -> Result<BoundedTransaction<sqlx::Postgres>, StoreError> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL {ACTING_ORGANIZATION} = '{organization}'"
        );
        self.begin_as(&begin, deadline).await
    }

    /// Begins a transaction that reads one state of the database, whatever is committed meanwhile.
    ///
    /// The statements are planned for their values: which index serves a search depends on the term.
    ///
    /// # Errors
    /// As [`Postgres::begin`].
    pub async fn begin_reading(
        &self,
        deadline: Instant,
    ) -> Result<BoundedTransaction<sqlx::Postgres>, StoreError> {
        let begin =
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan";
        self.begin_as(begin, deadline).await
    }

    async fn begin_as(
        &self,
        begin: &str,
        deadline: Instant,
    ) -> Result<BoundedTransaction<sqlx::Postgres>, StoreError> {
        // Zero would mean no limit at all.
        let remaining = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
        // One round trip; nothing but numbers and ids is put into the text.
        let mut statement = format!("{begin}; SET LOCAL statement_timeout = {remaining}");
        if !self.places.keeps_statements {
            statement += "; SET LOCAL idle_in_transaction_session_timeout = '15s'";
        }
        let statement = AssertSqlSafe(statement).into_sql_str();
        BoundedTransaction::begin(&self.places, &self.pool, statement, deadline).await
    }
}

/// Lets the rest of a transaction change rows of one organisation.
///
/// # Errors
/// What the server says.
pub async fn act_for<'c>(
    statements: impl Executor<'c, Database = sqlx::Postgres>,
    organization: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT set_config($1, $2, true)")
        .bind(ACTING_ORGANIZATION)
        .bind(organization.to_string())
        .execute(statements)
        .await?;
    Ok(())
}
