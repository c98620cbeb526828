//! Postgres as the database of a team: a bounded pool, and statements that end when their caller does.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgPool, SqlSafeStr};
use tokio::time::Instant;
use uuid::Uuid;

use crate::connection::{Connection, Suspicion};
use crate::places::{FOR_PINGS, Places};
use crate::{BoundedTransaction, Lease, OpenError, PingError, StoreError, is_refusal, tolerate_newer};

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

/// An open Postgres database. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Postgres {
    pool: PgPool,
    places: Places,
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
    Ok(!sqlx::query_scalar::<_, bool>(TAKES_NO_WRITES).fetch_one(connection).await?)
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
        mut migrations: Migrator,
    ) -> Result<Self, OpenError> {
        // Migrations may take longer than any request: they get a connection without a timeout.
        let migrating = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
        let migrating = migrating.connect_lazy_with(options.clone());
        loop {
            match migrating.acquire().await {
                Ok(_) => break,
                Err(error) if is_refusal(&error) => return Err(OpenError::Refused(error)),
                Err(error) => match StoreError::from(error) {
                    StoreError::Unavailable(error) => {
                        tracing::warn!(%error, "waiting for Postgres");
                        tokio::time::sleep(CONNECT_RETRY_DELAY).await;
                    }
                    error => return Err(error.into()),
                },
            }
        }
        tolerate_newer(&mut migrations);
        migrations.run(&migrating).await?;
        let exempt: bool =
            sqlx::query_scalar(IS_EXEMPT).fetch_one(&migrating).await.map_err(StoreError::from)?;
        if exempt {
            tracing::warn!(
                "the database user is exempt from row-level security; give the worker another one"
            );
        }
        migrating.close().await;
        let places = Places::new("all", connections);
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
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(SESSION).await.map(|_| ()) })
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
        let mut connection =
            Connection::acquire(&self.pool, &self.places.suspicion).await.map_err(unreachable)?;
        let read_only =
            sqlx::query_scalar::<_, bool>(TAKES_NO_WRITES).fetch_one(connection.statements()).await;
        if read_only.map_err(unreachable)? {
            connection.close();
            return Err(PingError::NotWritable(None));
        }
        Ok(())
    }

    /// A connection for a single look-up by key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn connection(&self) -> Result<Lease<sqlx::Postgres>, StoreError> {
        self.places.connect(&self.pool).await
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
        let statement = format!("{begin}; SET LOCAL statement_timeout = {remaining}");
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
