//! What was done under one correlation id, for an operator, who has the database's password: nothing
//! is created or migrated.

use std::time::Duration;

use contract::CorrelationId;
use contract::auth::OrganizationId;
use contract::events::{EventId, HistoryEntry};
use database::{DatabaseUrl, StoreError};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, FromRow};
use uuid::Uuid;

use super::rows::HistoryRow;

/// How long the database may take altogether.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A change to an event, of whichever organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The event.
    pub event: EventId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// What was done to it.
    pub entry: HistoryEntry,
}

#[derive(FromRow)]
struct ChangeRow {
    event_id: Uuid,
    organization_id: Uuid,
    #[sqlx(flatten)]
    entry: HistoryRow,
}

impl TryFrom<ChangeRow> for Change {
    type Error = StoreError;

    fn try_from(row: ChangeRow) -> Result<Self, StoreError> {
        let (event, organization) = (EventId(row.event_id), OrganizationId(row.organization_id));
        Ok(Self { event, organization, entry: row.entry.try_into()? })
    }
}

const CHANGES: &str = "SELECT event_id, organization_id, at, actor_id, action, from_status, to_status, reason, \
     correlation_id FROM event_history WHERE correlation_id = $1 ORDER BY row LIMIT 1000";

/// The first thousand changes that the request with this id has made, oldest first.
///
/// # Errors
/// [`StoreError::Unavailable`] within five seconds; [`StoreError::Defect`] for a database of another version.
pub async fn changes(database: DatabaseUrl, id: &CorrelationId) -> Result<Vec<Change>, StoreError> {
    let rows = async {
        match database {
            DatabaseUrl::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path).read_only(true);
                let mut connection = options.connect().await?;
                let rows = sqlx::query_as::<_, ChangeRow>(CHANGES).bind(id.as_str());
                let rows = rows.fetch_all(&mut connection).await?;
                connection.close().await?;
                Ok::<_, sqlx::Error>(rows)
            }
            DatabaseUrl::Postgres(options) => {
                let mut connection = options.connect().await?;
                let rows = sqlx::query_as::<_, ChangeRow>(CHANGES).bind(id.as_str());
                let rows = rows.fetch_all(&mut connection).await?;
                connection.close().await?;
                Ok(rows)
            }
        }
    };
    let rows = tokio::time::timeout(TIMEOUT, rows).await;
    let rows = rows.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    rows.into_iter().map(Change::try_from).collect()
}
