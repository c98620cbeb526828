//! The event store in SQL, for either database.

use async_trait::async_trait;
use contract::auth::OrganizationId;
use contract::events::{Event, EventId, EventStatus, HistoryEntry, PlacedEntry};
use contract::{IdempotentRequest, SavedResponse, Timestamp};
use database::{
    Database, DatabaseUrl, Executor, Migrations, OpenError, PingError, Sql, StoreError, Transaction, query,
};
use tokio::time::Instant;

use super::listing::{self, listing};
use super::rows::{EventRow, PlacedRow, SavedResponseRow, UnfoldedRow};
use super::{EventStore, EventTransaction, ListQuery, Listing, search_text};

const SELECT_EVENT: &str = "SELECT id, organization_id, created_by_id, title, description, location, start_date, \
     end_date, status, rejection_reason, created_at, updated_at, version \
     FROM events WHERE id = $1 AND organization_id = $2";

const INSERT_EVENT: &str = "INSERT INTO events (id, organization_id, created_by_id, title, description, location, \
     start_date, end_date, status, rejection_reason, created_at, updated_at, version, search_text, folded_version) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $13) ON CONFLICT (id) DO NOTHING";

const UPDATE_EVENT: &str = "UPDATE events SET title = $1, description = $2, location = $3, start_date = $4, \
     end_date = $5, status = $6, rejection_reason = $7, updated_at = $8, version = $9, search_text = $10, \
     folded_version = $9 WHERE id = $11 AND organization_id = $12 AND status = $13 AND version = $14";

const DELETE_EVENT: &str =
    "DELETE FROM events WHERE id = $1 AND organization_id = $2 AND status = $3 AND version = $4";

const INSERT_HISTORY: &str = "INSERT INTO event_history (event_id, organization_id, at, actor_id, action, \
     from_status, to_status, reason, correlation_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

const SELECT_HISTORY: &str = "SELECT row AS position, at, actor_id, action, from_status, to_status, reason, \
     correlation_id FROM event_history WHERE organization_id = $1 AND event_id = $2 AND row > $3 ORDER BY row LIMIT $4";

const INSERT_SAVED_RESPONSE: &str = "INSERT INTO outcomes (organization_id, user_id, key_hash, fingerprint, role, \
     correlation_id, trace_id, span_id, status, etag, location, body, kept_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING";

const SELECT_SAVED_RESPONSE: &str = "SELECT fingerprint, role, correlation_id, trace_id, span_id, status, etag, location, body \
     FROM outcomes WHERE organization_id = $1 AND user_id = $2 AND key_hash = $3";

const DELETE_SAVED_RESPONSES: Sql = Sql {
    sqlite: "DELETE FROM outcomes WHERE rowid IN \
         (SELECT rowid FROM outcomes WHERE kept_at < $1 ORDER BY kept_at LIMIT $2)",
    postgres: "DELETE FROM outcomes WHERE (organization_id, user_id, key_hash) IN \
         (SELECT organization_id, user_id, key_hash FROM outcomes WHERE kept_at < $1 \
         ORDER BY kept_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
};

/// Events whose searchable text an earlier version has written. What is ASCII has always been folded like that.
const SELECT_UNFOLDED: Sql = Sql {
    sqlite: "SELECT id, organization_id, title, description, version FROM events \
         WHERE folded_version IS NOT version AND length(CAST(search_text AS BLOB)) <> length(search_text) \
         ORDER BY organization_id, id LIMIT $1",
    postgres: "SELECT id, organization_id, title, description, version FROM events \
         WHERE folded_version IS DISTINCT FROM version AND octet_length(search_text) <> char_length(search_text) \
         ORDER BY organization_id, id LIMIT $1",
};

/// Leaves an event alone that was changed meanwhile: that has folded it.
const FOLD_EVENT: &str = "UPDATE events SET search_text = $1, folded_version = version \
     WHERE id = $2 AND organization_id = $3 AND version = $4";

/// Events in a database.
#[derive(Debug)]
pub struct SqlEventStore {
    database: Database,
}

struct SqlEventTransaction {
    transaction: Transaction,
}

impl SqlEventStore {
    /// Opens the database and brings its schema up to date. The limits are those of [`Database::open`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(url: DatabaseUrl, connections: u32, statement_cache: usize) -> Result<Self, OpenError> {
        let migrations = Migrations {
            sqlite: sqlx::migrate!("migrations/sqlite"),
            postgres: sqlx::migrate!("migrations/postgres"),
        };
        Ok(Self { database: Database::open(url, connections, statement_cache, migrations).await? })
    }

    async fn fold(&self, rows: &[UnfoldedRow], deadline: Instant) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_for(rows[0].organization_id, deadline).await?;
        for row in rows {
            query(FOLD_EVENT)
                .bind(search_text(&row.title, &row.description))
                .bind(row.id)
                .bind(row.organization_id)
                .bind(row.version)
                .execute(&mut transaction)
                .await?;
        }
        transaction.commit().await
    }
}

#[async_trait]
impl EventStore for SqlEventStore {
    async fn ping(&self) -> Result<(), PingError> {
        self.database.ping().await
    }

    async fn begin(
        &self,
        organization: OrganizationId,
        deadline: Instant,
    ) -> Result<Box<dyn EventTransaction>, StoreError> {
        let transaction = self.database.begin_for(organization.0, deadline).await?;
        Ok(Box::new(SqlEventTransaction { transaction }))
    }

    async fn find(&self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError> {
        find((&mut self.database.reader().await?).into(), organization, id).await
    }

    async fn list(&self, query: &ListQuery, deadline: Instant) -> Result<Listing, StoreError> {
        let mut reader = self.database.snapshot(deadline).await?;
        let dialect = self.database.dialect();
        let rows = listing::page(query, dialect).fetch_all::<EventRow>(&mut reader).await?;
        let events = rows.into_iter().map(Event::try_from).collect::<Result<Vec<_>, _>>()?;
        let counted = listing::count(query, dialect).fetch_optional::<(i64,)>(&mut reader).await?;
        Ok(listing(events, counted.map_or(0, |(total,)| total), query))
    }

    async fn find_saved(&self, write: &IdempotentRequest) -> Result<Option<SavedResponse>, StoreError> {
        let row = query(SELECT_SAVED_RESPONSE)
            .bind(write.organization_id.0)
            .bind(write.user_id.0)
            .bind(write.key_hash.as_slice())
            .fetch_optional::<SavedResponseRow>(&mut self.database.reader().await?)
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
        let deleted =
            query(DELETE_SAVED_RESPONSES).bind(before).bind(limit).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(deleted)
    }

    async fn fold_texts(&self, limit: i64, deadline: Instant) -> Result<usize, StoreError> {
        let rows = query(SELECT_UNFOLDED)
            .bind(limit)
            .fetch_all::<UnfoldedRow>(&mut self.database.reader().await?)
            .await?;
        let mut folded = 0;
        // A transaction changes rows of one organisation.
        for rows in rows.chunk_by(|one, next| one.organization_id == next.organization_id) {
            match self.fold(rows, deadline).await {
                Ok(()) => folded += rows.len(),
                // There is no time for the rest; it is found again.
                Err(StoreError::Expired) if folded > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(folded)
    }

    async fn history(
        &self,
        organization: OrganizationId,
        id: EventId,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<PlacedEntry>, StoreError> {
        let rows = query(SELECT_HISTORY)
            .bind(organization.0)
            .bind(id.0)
            .bind(after.unwrap_or(0))
            .bind(limit)
            .fetch_all::<PlacedRow>(&mut self.database.reader().await?)
            .await?;
        rows.into_iter().map(PlacedEntry::try_from).collect()
    }
}

#[async_trait]
impl EventTransaction for SqlEventTransaction {
    async fn find(&mut self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError> {
        find((&mut self.transaction).into(), organization, id).await
    }

    async fn insert(&mut self, event: &Event) -> Result<bool, StoreError> {
        let inserted = query(INSERT_EVENT)
            .bind(event.id.0)
            .bind(event.organization_id.0)
            .bind(event.created_by_id.0)
            .bind(&event.title)
            .bind(&event.description)
            .bind(&event.location)
            .bind(event.start_date)
            .bind(event.end_date)
            .bind(event.status.as_str())
            .bind(&event.rejection_reason)
            .bind(event.created_at)
            .bind(event.updated_at)
            .bind(event.version)
            .bind(search_text(&event.title, &event.description))
            .execute(&mut self.transaction)
            .await?;
        Ok(inserted == 1)
    }

    async fn replace(&mut self, next: &Event, status: EventStatus, version: i64) -> Result<bool, StoreError> {
        let updated = query(UPDATE_EVENT)
            .bind(&next.title)
            .bind(&next.description)
            .bind(&next.location)
            .bind(next.start_date)
            .bind(next.end_date)
            .bind(next.status.as_str())
            .bind(&next.rejection_reason)
            .bind(next.updated_at)
            .bind(next.version)
            .bind(search_text(&next.title, &next.description))
            .bind(next.id.0)
            .bind(next.organization_id.0)
            .bind(status.as_str())
            .bind(version)
            .execute(&mut self.transaction)
            .await?;
        Ok(updated == 1)
    }

    async fn remove(&mut self, event: &Event) -> Result<bool, StoreError> {
        let deleted = query(DELETE_EVENT)
            .bind(event.id.0)
            .bind(event.organization_id.0)
            .bind(event.status.as_str())
            .bind(event.version)
            .execute(&mut self.transaction)
            .await?;
        Ok(deleted == 1)
    }

    async fn record(
        &mut self,
        organization: OrganizationId,
        id: EventId,
        entry: &HistoryEntry,
    ) -> Result<(), StoreError> {
        query(INSERT_HISTORY)
            .bind(id.0)
            .bind(organization.0)
            .bind(entry.at)
            .bind(entry.actor.0)
            .bind(entry.action.as_str())
            .bind(entry.from.map(EventStatus::as_str))
            .bind(entry.to.map(EventStatus::as_str))
            .bind(&entry.reason)
            .bind(&entry.correlation_id)
            .execute(&mut self.transaction)
            .await?;
        Ok(())
    }

    async fn save_response(
        &mut self,
        write: &IdempotentRequest,
        answer: &SavedResponse,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let saved = query(INSERT_SAVED_RESPONSE)
            .bind(write.organization_id.0)
            .bind(write.user_id.0)
            .bind(write.key_hash.as_slice())
            .bind(answer.fingerprint.as_slice())
            .bind(answer.role.as_str())
            .bind(answer.first.correlation_id.as_str())
            .bind(answer.first.trace.trace_id.to_string())
            .bind(answer.first.trace.span_id.to_string())
            .bind(answer.status)
            .bind(answer.etag.map(|etag| etag.0))
            .bind(&answer.location)
            .bind(answer.body.as_ref())
            .bind(now)
            .execute(&mut self.transaction)
            .await?;
        Ok(saved == 1)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.transaction.commit().await
    }
}

async fn find(
    on: Executor<'_>,
    organization: OrganizationId,
    id: EventId,
) -> Result<Option<Event>, StoreError> {
    let row = query(SELECT_EVENT).bind(id.0).bind(organization.0).fetch_optional::<EventRow>(on).await?;
    row.map(Event::try_from).transpose()
}
