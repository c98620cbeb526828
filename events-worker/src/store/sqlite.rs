//! The event store on SQLite.

use std::path::Path;

use async_trait::async_trait;
use contract::auth::OrganizationId;
use contract::events::{Event, EventId, EventStatus, HistoryEntry, PlacedEntry};
use contract::{IdempotentRequest, SavedResponse, Timestamp};
use database::{
    BoundedTransaction, InstrumentedConnection, OpenError, PingError, Sqlite, StoreError, StoredTime,
};
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe};
use tokio::time::Instant;

use super::listing::{Dialect, Statement, Value, listing};
use super::rows::{EventRow, OutcomeRow, PlacedRow, UnfoldedRow};
use super::{EventStore, EventTransaction, ListQuery, Listing, search_text};

/// Events in an SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteEventStore {
    database: Sqlite,
}

impl SqliteEventStore {
    /// Opens or creates the file and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { database: Sqlite::open(path, sqlx::migrate!("migrations/sqlite")).await? })
    }
}

const SELECT_EVENT: &str = "SELECT id, organization_id, created_by_id, title, description, location, start_date, \
     end_date, status, rejection_reason, created_at, updated_at, version \
     FROM events WHERE id = ? AND organization_id = ?";

const INSERT_EVENT: &str = "INSERT INTO events (id, organization_id, created_by_id, title, description, location, \
     start_date, end_date, status, rejection_reason, created_at, updated_at, version, search_text, folded_version) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?13) ON CONFLICT (id) DO NOTHING";

const UPDATE_EVENT: &str = "UPDATE events SET title = ?1, description = ?2, location = ?3, start_date = ?4, \
     end_date = ?5, status = ?6, rejection_reason = ?7, updated_at = ?8, version = ?9, search_text = ?10, folded_version = ?9 \
     WHERE id = ?11 AND organization_id = ?12 AND status = ?13 AND version = ?14";

const DELETE_EVENT: &str =
    "DELETE FROM events WHERE id = ? AND organization_id = ? AND status = ? AND version = ?";

const INSERT_HISTORY: &str = "INSERT INTO event_history (event_id, organization_id, at, actor_id, action, \
     from_status, to_status, reason, correlation_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

const SELECT_HISTORY: &str = "SELECT row AS position, at, actor_id, action, from_status, to_status, reason, \
     correlation_id FROM event_history WHERE organization_id = ? AND event_id = ? AND row > ? ORDER BY row LIMIT ?";

const INSERT_OUTCOME: &str = "INSERT INTO outcomes (organization_id, user_id, key_hash, fingerprint, role, \
     correlation_id, trace_id, span_id, status, etag, location, body, kept_at) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";

const SELECT_OUTCOME: &str = "SELECT fingerprint, role, correlation_id, trace_id, span_id, status, etag, location, body \
     FROM outcomes WHERE organization_id = ? AND user_id = ? AND key_hash = ?";

const DELETE_OUTCOMES: &str = "DELETE FROM outcomes WHERE rowid IN \
     (SELECT rowid FROM outcomes WHERE kept_at < ? ORDER BY kept_at LIMIT ?)";

/// Events whose searchable text an earlier version has written. What is ASCII has always been folded like that.
const SELECT_UNFOLDED: &str = "SELECT id, organization_id, title, description, version FROM events \
     WHERE folded_version IS NOT version AND length(CAST(search_text AS BLOB)) <> length(search_text) ORDER BY organization_id, id LIMIT $1";

const FOLD_EVENT: &str = "UPDATE events SET search_text = $1, folded_version = version \
     WHERE id = $2 AND organization_id = $3 AND version = $4";

#[async_trait]
impl EventStore for SqliteEventStore {
    async fn ping(&self) -> Result<(), PingError> {
        self.database.ping().await
    }

    async fn begin(
        &self,
        _organization: OrganizationId,
        deadline: Instant,
    ) -> Result<Box<dyn EventTransaction>, StoreError> {
        Ok(Box::new(SqliteEventTransaction { transaction: self.database.begin(deadline).await? }))
    }

    async fn find(&self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError> {
        let mut reader = self.database.reader().await?;
        find(reader.statements(), organization, id).await
    }

    async fn list(&self, query: &ListQuery, _deadline: Instant) -> Result<Listing, StoreError> {
        let mut reader = self.database.reader().await?;
        let (sql, values) = prepared(Statement::page(query, Dialect::Sqlite))?;
        let rows = sqlx::query_as_with::<_, EventRow, _>(sql, values).fetch_all(reader.statements()).await?;
        let events = rows.into_iter().map(Event::try_from).collect::<Result<Vec<_>, _>>()?;
        let (sql, values) = prepared(Statement::count(query, Dialect::Sqlite))?;
        let total = sqlx::query_scalar_with(sql, values).fetch_one(reader.statements()).await?;
        Ok(listing(events, total, query))
    }

    async fn find_saved(&self, write: &IdempotentRequest) -> Result<Option<SavedResponse>, StoreError> {
        let row = sqlx::query_as::<_, OutcomeRow>(SELECT_OUTCOME)
            .bind(write.organization_id.0)
            .bind(write.user_id.0)
            .bind(write.key_hash.as_slice())
            .fetch_optional(self.database.reader().await?.statements())
            .await?;
        row.map(SavedResponse::try_from).transpose()
    }

    async fn forget_answers(
        &self,
        before: Timestamp,
        limit: i64,
        deadline: Instant,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.database.begin(deadline).await?;
        let deleted = sqlx::query(DELETE_OUTCOMES)
            .bind(StoredTime(before))
            .bind(limit)
            .execute(transaction.statements())
            .await?;
        transaction.commit().await?;
        Ok(deleted.rows_affected())
    }

    async fn fold_texts(&self, limit: i64, deadline: Instant) -> Result<usize, StoreError> {
        let rows = sqlx::query_as::<_, UnfoldedRow>(SELECT_UNFOLDED)
            .bind(limit)
            .fetch_all(self.database.reader().await?.statements())
            .await?;
        if !rows.is_empty() {
            let mut transaction = self.database.begin(deadline).await?;
            for row in &rows {
                fold(transaction.statements(), row).await?;
            }
            transaction.commit().await?;
        }
        Ok(rows.len())
    }

    async fn history(
        &self,
        organization: OrganizationId,
        id: EventId,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<PlacedEntry>, StoreError> {
        let rows = sqlx::query_as::<_, PlacedRow>(SELECT_HISTORY)
            .bind(organization.0)
            .bind(id.0)
            .bind(after.unwrap_or(0))
            .bind(limit)
            .fetch_all(self.database.reader().await?.statements())
            .await?;
        rows.into_iter().map(PlacedEntry::try_from).collect()
    }
}

struct SqliteEventTransaction {
    transaction: BoundedTransaction<sqlx::Sqlite>,
}

#[async_trait]
impl EventTransaction for SqliteEventTransaction {
    async fn find(&mut self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError> {
        find(self.transaction.statements(), organization, id).await
    }

    async fn insert(&mut self, event: &Event) -> Result<bool, StoreError> {
        let inserted = sqlx::query(INSERT_EVENT)
            .bind(event.id.0)
            .bind(event.organization_id.0)
            .bind(event.created_by_id.0)
            .bind(&event.title)
            .bind(&event.description)
            .bind(&event.location)
            .bind(StoredTime(event.start_date))
            .bind(StoredTime(event.end_date))
            .bind(event.status.as_str())
            .bind(&event.rejection_reason)
            .bind(StoredTime(event.created_at))
            .bind(StoredTime(event.updated_at))
            .bind(event.version)
            .bind(search_text(&event.title, &event.description))
            .execute(self.transaction.statements())
            .await?;
        Ok(inserted.rows_affected() == 1)
    }

    async fn replace(&mut self, next: &Event, status: EventStatus, version: i64) -> Result<bool, StoreError> {
        let updated = sqlx::query(UPDATE_EVENT)
            .bind(&next.title)
            .bind(&next.description)
            .bind(&next.location)
            .bind(StoredTime(next.start_date))
            .bind(StoredTime(next.end_date))
            .bind(next.status.as_str())
            .bind(&next.rejection_reason)
            .bind(StoredTime(next.updated_at))
            .bind(next.version)
            .bind(search_text(&next.title, &next.description))
            .bind(next.id.0)
            .bind(next.organization_id.0)
            .bind(status.as_str())
            .bind(version)
            .execute(self.transaction.statements())
            .await?;
        Ok(updated.rows_affected() == 1)
    }

    async fn remove(&mut self, event: &Event) -> Result<bool, StoreError> {
        let deleted = sqlx::query(DELETE_EVENT)
            .bind(event.id.0)
            .bind(event.organization_id.0)
            .bind(event.status.as_str())
            .bind(event.version)
            .execute(self.transaction.statements())
            .await?;
        Ok(deleted.rows_affected() == 1)
    }

    async fn record(
        &mut self,
        organization: OrganizationId,
        id: EventId,
        entry: &HistoryEntry,
    ) -> Result<(), StoreError> {
        sqlx::query(INSERT_HISTORY)
            .bind(id.0)
            .bind(organization.0)
            .bind(StoredTime(entry.at))
            .bind(entry.actor.0)
            .bind(entry.action.as_str())
            .bind(entry.from.map(EventStatus::as_str))
            .bind(entry.to.map(EventStatus::as_str))
            .bind(&entry.reason)
            .bind(&entry.correlation_id)
            .execute(self.transaction.statements())
            .await?;
        Ok(())
    }

    async fn save_response(
        &mut self,
        write: &IdempotentRequest,
        answer: &SavedResponse,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let kept = sqlx::query(INSERT_OUTCOME)
            .bind(write.organization_id.0)
            .bind(write.user_id.0)
            .bind(write.key_hash.as_slice())
            .bind(answer.fingerprint.as_slice())
            .bind(answer.role.as_str())
            .bind(answer.first.correlation_id.as_str())
            .bind(answer.first.trace.trace_id.to_string())
            .bind(answer.first.trace.span_id.to_string())
            .bind(answer.status.cast_signed())
            .bind(answer.etag.map(|etag| etag.0))
            .bind(&answer.location)
            .bind(answer.body.as_ref())
            .bind(StoredTime(now))
            .execute(self.transaction.statements())
            .await?;
        Ok(kept.rows_affected() == 1)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.transaction.commit().await
    }
}

/// Leaves an event alone that was changed meanwhile: that has folded it.
async fn fold(
    statements: InstrumentedConnection<'_, sqlx::Sqlite>,
    row: &UnfoldedRow,
) -> Result<(), StoreError> {
    sqlx::query(FOLD_EVENT)
        .bind(search_text(&row.title, &row.description))
        .bind(row.id)
        .bind(row.organization_id)
        .bind(row.version)
        .execute(statements)
        .await?;
    Ok(())
}

async fn find(
    statements: InstrumentedConnection<'_, sqlx::Sqlite>,
    organization: OrganizationId,
    id: EventId,
) -> Result<Option<Event>, StoreError> {
    let row = sqlx::query_as::<_, EventRow>(SELECT_EVENT)
        .bind(id.0)
        .bind(organization.0)
        .fetch_optional(statements)
        .await?;
    row.map(Event::try_from).transpose()
}

/// A statement's text and its values as this database takes them.
fn prepared(statement: Statement) -> Result<(AssertSqlSafe<String>, SqliteArguments), StoreError> {
    let mut arguments = SqliteArguments::default();
    for value in statement.values {
        match value {
            Value::Id(id) => arguments.add(id),
            Value::Number(number) => arguments.add(number),
            Value::Text(text) => arguments.add(text),
            Value::Time(time) => arguments.add(StoredTime(time)),
        }
        .map_err(|error| StoreError::Defect(sqlx::Error::Encode(error)))?;
    }
    // Built from literals and placeholders only; what callers sent is among the values.
    Ok((AssertSqlSafe(statement.sql), arguments))
}
