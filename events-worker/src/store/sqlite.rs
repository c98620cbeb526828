//! The event store on SQLite.

use std::path::Path;

use async_trait::async_trait;
use database::{OpenError, Sqlite, StoreError};
use shared::contract::Timestamp;
use shared::contract::auth::{OrganizationId, UserId};
use shared::contract::events::{Event, EventId, EventStatus, HistoryEntry, SortBy, SortOrder};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, SqliteConnection, Transaction};
use uuid::Uuid;

use super::{
    Cursor, EventStore, EventTransaction, ListQuery, Listing, MAX_TOTAL, PageBegin, SortValue, search_text,
};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

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
        Ok(Self { database: Sqlite::open(path, &MIGRATIONS).await? })
    }
}

const SELECT_EVENT: &str = "SELECT id, organization_id, created_by_id, title, description, location, start_date, \
     end_date, status, rejection_reason, created_at, updated_at, version \
     FROM events WHERE id = ? AND organization_id = ?";

const INSERT_EVENT: &str = "INSERT INTO events (id, organization_id, created_by_id, title, description, location, \
     start_date, end_date, status, rejection_reason, created_at, updated_at, version, search_text) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING";

const UPDATE_EVENT: &str = "UPDATE events SET title = ?, description = ?, location = ?, start_date = ?, \
     end_date = ?, status = ?, rejection_reason = ?, updated_at = ?, version = ?, search_text = ? \
     WHERE id = ? AND organization_id = ? AND status = ? AND version = ?";

const DELETE_EVENT: &str =
    "DELETE FROM events WHERE id = ? AND organization_id = ? AND status = ? AND version = ?";

const INSERT_HISTORY: &str = "INSERT INTO event_history (event_id, organization_id, at, actor_id, action, \
     from_status, to_status, reason, correlation_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

const SELECT_HISTORY: &str = "SELECT at, actor_id, action, from_status, to_status, reason, correlation_id \
     FROM event_history WHERE organization_id = ? AND event_id = ? ORDER BY row";

#[async_trait]
impl EventStore for SqliteEventStore {
    async fn begin(&self) -> Result<Box<dyn EventTransaction>, StoreError> {
        Ok(Box::new(SqliteEventTransaction { transaction: self.database.begin().await? }))
    }

    async fn find(&self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError> {
        let mut reader = self.database.readers().acquire().await?;
        find(&mut reader, organization, id).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Listing, StoreError> {
        let mut reader = self.database.readers().acquire().await?;
        let mut page = page_statement(query);
        let rows = page.build().fetch_all(&mut *reader).await?;
        let mut events = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
        let limit = usize::try_from(query.limit).unwrap_or(0);
        let has_next = events.len() > limit;
        events.truncate(limit);
        let total = count_statement(query).build_query_scalar().fetch_one(&mut *reader).await?;
        Ok(Listing { events, has_next, total })
    }

    async fn history(
        &self,
        organization: OrganizationId,
        id: EventId,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        let rows = sqlx::query(SELECT_HISTORY)
            .bind(organization.0)
            .bind(id.0)
            .fetch_all(self.database.readers())
            .await?;
        rows.iter().map(history_entry).collect()
    }
}

struct SqliteEventTransaction {
    transaction: Transaction<'static, sqlx::Sqlite>,
}

#[async_trait]
impl EventTransaction for SqliteEventTransaction {
    async fn find(&mut self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError> {
        find(&mut self.transaction, organization, id).await
    }

    async fn insert(&mut self, event: &Event) -> Result<bool, StoreError> {
        let inserted = sqlx::query(INSERT_EVENT)
            .bind(event.id.0)
            .bind(event.organization_id.0)
            .bind(event.created_by_id.0)
            .bind(&event.title)
            .bind(&event.description)
            .bind(&event.location)
            .bind(event.start_date.unix_millis())
            .bind(event.end_date.unix_millis())
            .bind(event.status.as_str())
            .bind(&event.rejection_reason)
            .bind(event.created_at.unix_millis())
            .bind(event.updated_at.unix_millis())
            .bind(event.version)
            .bind(search_text(&event.title, &event.description))
            .execute(&mut *self.transaction)
            .await?;
        Ok(inserted.rows_affected() == 1)
    }

    async fn replace(&mut self, next: &Event, status: EventStatus, version: i64) -> Result<bool, StoreError> {
        let updated = sqlx::query(UPDATE_EVENT)
            .bind(&next.title)
            .bind(&next.description)
            .bind(&next.location)
            .bind(next.start_date.unix_millis())
            .bind(next.end_date.unix_millis())
            .bind(next.status.as_str())
            .bind(&next.rejection_reason)
            .bind(next.updated_at.unix_millis())
            .bind(next.version)
            .bind(search_text(&next.title, &next.description))
            .bind(next.id.0)
            .bind(next.organization_id.0)
            .bind(status.as_str())
            .bind(version)
            .execute(&mut *self.transaction)
            .await?;
        Ok(updated.rows_affected() == 1)
    }

    async fn remove(&mut self, event: &Event) -> Result<bool, StoreError> {
        let deleted = sqlx::query(DELETE_EVENT)
            .bind(event.id.0)
            .bind(event.organization_id.0)
            .bind(event.status.as_str())
            .bind(event.version)
            .execute(&mut *self.transaction)
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
            .bind(entry.at.unix_millis())
            .bind(entry.actor.0)
            .bind(entry.action.as_str())
            .bind(entry.from.map(EventStatus::as_str))
            .bind(entry.to.map(EventStatus::as_str))
            .bind(&entry.reason)
            .bind(&entry.correlation_id)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.transaction.commit().await.map_err(StoreError::Commit)
    }
}

async fn find(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    id: EventId,
) -> Result<Option<Event>, StoreError> {
    let row = sqlx::query(SELECT_EVENT).bind(id.0).bind(organization.0).fetch_optional(connection).await?;
    row.as_ref().map(event).transpose()
}

/// One index walk: the rows of one organisation with one status, or by one creator.
#[derive(Debug, Clone, Copy)]
enum Walk {
    ByStatus { status: EventStatus, except_by: Option<UserId> },
    ByCreator { creator: UserId, status: Option<EventStatus> },
}

/// The walks whose rows together are exactly what the query may show, each row once.
fn walks(query: &ListQuery) -> Vec<Walk> {
    match query.only_visible_to {
        None => EventStatus::ALL
            .into_iter()
            .filter(|status| query.status.is_none_or(|wanted| wanted == *status))
            .map(|status| Walk::ByStatus { status, except_by: None })
            .collect(),
        Some(viewer) => {
            let mut walks = vec![Walk::ByCreator { creator: viewer, status: query.status }];
            if query.status.is_none_or(|wanted| wanted == EventStatus::Approved) {
                walks.push(Walk::ByStatus { status: EventStatus::Approved, except_by: Some(viewer) });
            }
            walks
        }
    }
}

const fn column(sort_by: SortBy) -> &'static str {
    match sort_by {
        SortBy::CreatedAt => "created_at",
        SortBy::StartDate => "start_date",
        SortBy::Title => "title",
        SortBy::Status => "status",
    }
}

const fn direction(order: SortOrder) -> (&'static str, &'static str) {
    match order {
        SortOrder::Asc => ("ASC", ">"),
        SortOrder::Desc => ("DESC", "<"),
    }
}

/// One page: the first rows of every walk, merged.
fn page_statement(query: &ListQuery) -> QueryBuilder<sqlx::Sqlite> {
    let (direction, _) = direction(query.sort_order);
    let order = format!(" ORDER BY {} {direction}, id {direction} LIMIT ", column(query.sort_by));
    let skip = match query.begin {
        PageBegin::Skip(skip) => skip,
        PageBegin::After(_) => 0,
    };
    let rows = query.limit.saturating_add(1);
    let mut statement = QueryBuilder::new("");
    push_matches(&mut statement, query);
    statement.push(
        "SELECT id, organization_id, created_by_id, title, description, location, start_date, end_date, status, \
         rejection_reason, created_at, updated_at, version FROM (",
    );
    for (index, walk) in walks(query).into_iter().enumerate() {
        statement.push(if index == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
        statement.push("SELECT * FROM events WHERE ");
        push_walk(&mut statement, query, walk);
        if let PageBegin::After(cursor) = &query.begin {
            push_after(&mut statement, query, cursor);
        }
        statement.push(&order).push_bind(skip.saturating_add(rows)).push(")");
    }
    statement.push(")").push(&order).push_bind(rows).push(" OFFSET ").push_bind(skip);
    statement
}

/// How many rows match, counted up to [`MAX_TOTAL`].
fn count_statement(query: &ListQuery) -> QueryBuilder<sqlx::Sqlite> {
    let mut statement = QueryBuilder::new("");
    push_matches(&mut statement, query);
    statement.push("SELECT min(count(*), ").push_bind(MAX_TOTAL).push(") FROM (");
    for (index, walk) in walks(query).into_iter().enumerate() {
        statement.push(if index == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
        statement.push("SELECT 1 FROM events WHERE ");
        push_walk(&mut statement, query, walk);
        statement.push(" LIMIT ").push_bind(MAX_TOTAL).push(")");
    }
    statement.push(")");
    statement
}

/// Terms of three characters and more are looked up in the trigram index.
fn uses_index(term: &str) -> bool {
    term.chars().count() >= 3
}

fn push_matches(statement: &mut QueryBuilder<sqlx::Sqlite>, query: &ListQuery) {
    if let Some(term) = query.search.as_ref().map(|term| term.to_lowercase()).filter(|term| uses_index(term))
    {
        let phrase = format!("\"{}\"", term.replace('"', "\"\""));
        statement
            .push("WITH matches AS MATERIALIZED (SELECT rowid FROM events_search WHERE events_search MATCH ")
            .push_bind(phrase)
            .push(") ");
    }
}

fn push_walk(statement: &mut QueryBuilder<sqlx::Sqlite>, query: &ListQuery, walk: Walk) {
    statement.push("organization_id = ").push_bind(query.organization.0);
    match walk {
        Walk::ByStatus { status, except_by } => {
            statement.push(" AND status = ").push_bind(status.as_str());
            if let Some(creator) = except_by {
                statement.push(" AND created_by_id <> ").push_bind(creator.0);
            }
        }
        Walk::ByCreator { creator, status } => {
            statement.push(" AND created_by_id = ").push_bind(creator.0);
            if let Some(status) = status {
                // The plus keeps this filter from luring the planner away from the creator's index.
                statement.push(" AND +status = ").push_bind(status.as_str());
            }
        }
    }
    if let Some(from) = query.start_date_from {
        statement.push(" AND start_date >= ").push_bind(from.unix_millis());
    }
    if let Some(to) = query.start_date_to {
        statement.push(" AND start_date <= ").push_bind(to.unix_millis());
    }
    if let Some(term) = query.search.as_ref().map(|term| term.to_lowercase()) {
        if uses_index(&term) {
            statement.push(" AND row IN (SELECT rowid FROM matches)");
        } else {
            statement.push(" AND instr(search_text, ").push_bind(term).push(") > 0");
        }
    }
}

fn push_after(statement: &mut QueryBuilder<sqlx::Sqlite>, query: &ListQuery, cursor: &Cursor) {
    let (_, comparison) = direction(query.sort_order);
    statement.push(format!(" AND ({}, id) {comparison} (", column(query.sort_by)));
    match &cursor.value {
        SortValue::Time(millis) => statement.push_bind(*millis),
        SortValue::Text(text) => statement.push_bind(text.clone()),
    };
    statement.push(", ").push_bind(cursor.id.0).push(")");
}

fn event(row: &SqliteRow) -> Result<Event, StoreError> {
    Ok(Event {
        id: EventId(row.try_get::<Uuid, _>("id")?),
        title: row.try_get("title")?,
        description: row.try_get("description")?,
        location: row.try_get("location")?,
        start_date: time(row, "start_date")?,
        end_date: time(row, "end_date")?,
        status: status(row.try_get("status")?)?,
        rejection_reason: row.try_get("rejection_reason")?,
        organization_id: OrganizationId(row.try_get::<Uuid, _>("organization_id")?),
        created_by_id: UserId(row.try_get::<Uuid, _>("created_by_id")?),
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        version: row.try_get("version")?,
    })
}

fn history_entry(row: &SqliteRow) -> Result<HistoryEntry, StoreError> {
    let optional_status = |column| -> Result<Option<EventStatus>, StoreError> {
        row.try_get::<Option<&str>, _>(column)?.map(status).transpose()
    };
    Ok(HistoryEntry {
        at: time(row, "at")?,
        actor: UserId(row.try_get::<Uuid, _>("actor_id")?),
        action: row.try_get::<&str, _>("action")?.parse().map_err(|_| StoreError::UnknownValue("action"))?,
        from: optional_status("from_status")?,
        to: optional_status("to_status")?,
        reason: row.try_get("reason")?,
        correlation_id: row.try_get("correlation_id")?,
    })
}

fn status(text: &str) -> Result<EventStatus, StoreError> {
    text.parse().map_err(|_| StoreError::UnknownValue("status"))
}

fn time(row: &SqliteRow, column: &str) -> Result<Timestamp, StoreError> {
    Timestamp::from_unix_millis(row.try_get(column)?).ok_or(StoreError::UnknownValue("time"))
}
