//! Rows as both databases return them, and what they become.

use contract::auth::{OrganizationId, UserId};
use contract::events::{Event, EventId, EventStatus, HistoryEntry, PlacedEntry};
use contract::{EntityTag, SavedResponse};
use database::{Answered, AnsweredRow, StoreError, StoredTime};
use sqlx::FromRow;
use uuid::Uuid;

#[derive(FromRow)]
pub(super) struct EventRow {
    id: Uuid,
    organization_id: Uuid,
    created_by_id: Uuid,
    title: String,
    description: String,
    location: Option<String>,
    start_date: StoredTime,
    end_date: StoredTime,
    status: String,
    rejection_reason: Option<String>,
    created_at: StoredTime,
    updated_at: StoredTime,
    version: i64,
}

impl TryFrom<EventRow> for Event {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: EventId(row.id),
            title: row.title,
            description: row.description,
            location: row.location,
            start_date: row.start_date.0,
            end_date: row.end_date.0,
            status: status(&row.status)?,
            rejection_reason: row.rejection_reason,
            organization_id: OrganizationId(row.organization_id),
            created_by_id: UserId(row.created_by_id),
            created_at: row.created_at.0,
            updated_at: row.updated_at.0,
            version: row.version,
        })
    }
}

#[derive(FromRow)]
pub(super) struct HistoryRow {
    at: StoredTime,
    actor_id: Uuid,
    action: String,
    from_status: Option<String>,
    to_status: Option<String>,
    reason: Option<String>,
    correlation_id: String,
}

impl TryFrom<HistoryRow> for HistoryEntry {
    type Error = StoreError;

    fn try_from(row: HistoryRow) -> Result<Self, StoreError> {
        Ok(Self {
            at: row.at.0,
            actor: UserId(row.actor_id),
            action: row.action.parse().map_err(|_| StoreError::UnknownValue("action"))?,
            from: row.from_status.as_deref().map(status).transpose()?,
            to: row.to_status.as_deref().map(status).transpose()?,
            reason: row.reason,
            correlation_id: row.correlation_id,
        })
    }
}

/// An event whose searchable text is to be made anew.
#[derive(FromRow)]
pub(super) struct UnfoldedRow {
    pub(super) id: Uuid,
    pub(super) organization_id: Uuid,
    pub(super) title: String,
    pub(super) description: String,
    pub(super) version: i64,
}

#[derive(FromRow)]
pub(super) struct PlacedRow {
    #[sqlx(flatten)]
    entry: HistoryRow,
    position: i64,
}

impl TryFrom<PlacedRow> for PlacedEntry {
    type Error = StoreError;

    fn try_from(row: PlacedRow) -> Result<Self, StoreError> {
        Ok(Self { entry: row.entry.try_into()?, position: row.position })
    }
}

#[derive(FromRow)]
pub(super) struct SavedResponseRow {
    #[sqlx(flatten)]
    answered: AnsweredRow,
    etag: Option<i64>,
    location: Option<String>,
    body: Vec<u8>,
}

impl TryFrom<SavedResponseRow> for SavedResponse {
    type Error = StoreError;

    fn try_from(row: SavedResponseRow) -> Result<Self, StoreError> {
        let Answered { fingerprint, role, first, status } = row.answered.try_into()?;
        Ok(Self {
            fingerprint,
            role,
            first,
            status,
            etag: row.etag.map(EntityTag),
            location: row.location,
            body: row.body.into(),
        })
    }
}

fn status(text: &str) -> Result<EventStatus, StoreError> {
    text.parse().map_err(|_| StoreError::UnknownValue("status"))
}
