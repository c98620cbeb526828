//! What the events worker keeps, as traits: reads, and one transaction for every change.

pub mod audit;
mod cursor;
mod listing;
mod rows;
mod sql;

use async_trait::async_trait;
use contract::auth::{OrganizationId, UserId};
use contract::events::{Event, EventId, EventStatus, HistoryEntry, PlacedEntry, SortBy, SortOrder};
use contract::text::folded;
use contract::{IdempotentRequest, SavedResponse, Timestamp};
use database::{PingError, StoreError};
use tokio::time::Instant;

pub use cursor::{Cursor, SortValue};
pub use sql::SqlEventStore;

/// The events and their history. Every method takes the organisation: there is no way to ask for
/// another one's rows. What may take long takes a deadline, after which the server gives up too.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// Asks the database for an answer, whatever it is.
    async fn ping(&self) -> Result<(), PingError>;

    /// Begins a change to what belongs to `organization`. Dropping the transaction undoes it.
    async fn begin(
        &self,
        organization: OrganizationId,
        deadline: Instant,
    ) -> Result<Box<dyn EventTransaction>, StoreError>;

    /// One event.
    async fn find(&self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError>;

    /// One page of the events a viewer may see.
    async fn list(&self, query: &ListQuery, deadline: Instant) -> Result<Listing, StoreError>;

    /// The answer that is saved under this write's key.
    async fn find_saved(&self, write: &IdempotentRequest) -> Result<Option<SavedResponse>, StoreError>;

    /// Removes up to `limit` of the answers that were saved before `before`; returns how many.
    async fn forget_answers(
        &self,
        before: Timestamp,
        limit: i64,
        deadline: Instant,
    ) -> Result<u64, StoreError>;

    /// Makes the searchable text of up to `limit` events anew that an earlier version wrote; returns how many.
    async fn fold_texts(&self, limit: i64, deadline: Instant) -> Result<usize, StoreError>;

    /// What was done to an event, oldest first: up to `limit` entries behind the position `after`.
    async fn history(
        &self,
        organization: OrganizationId,
        id: EventId,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<PlacedEntry>, StoreError>;
}

/// One change to one event, with its history row and the response to its caller. Nothing is visible before [`commit`](Self::commit).
#[async_trait]
pub trait EventTransaction: Send {
    /// The event as this transaction sees it.
    async fn find(&mut self, organization: OrganizationId, id: EventId) -> Result<Option<Event>, StoreError>;

    /// Inserts an event. `false` when its id exists.
    async fn insert(&mut self, event: &Event) -> Result<bool, StoreError>;

    /// Writes `next` over the event it was made from, if that still stands at `status` and `version`.
    /// `false` when another writer was faster.
    async fn replace(&mut self, next: &Event, status: EventStatus, version: i64) -> Result<bool, StoreError>;

    /// Removes the event, if it still stands at its status and version. `false` when another write
    /// was faster.
    async fn remove(&mut self, event: &Event) -> Result<bool, StoreError>;

    /// Appends to the event's history.
    async fn record(
        &mut self,
        organization: OrganizationId,
        id: EventId,
        entry: &HistoryEntry,
    ) -> Result<(), StoreError>;

    /// Saves the answer to `write`, given at `now`. `false` when one is saved under its key already; then
    /// this transaction must be dropped.
    async fn save_response(
        &mut self,
        write: &IdempotentRequest,
        answer: &SavedResponse,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Makes everything visible, durably.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Which events, for whom, in which order, from where on.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// The viewer's organisation.
    pub organization: OrganizationId,
    /// Whose events and approved ones are seen; `None` sees everything.
    pub only_visible_to: Option<UserId>,
    /// Only events that stand here.
    pub status: Option<EventStatus>,
    /// Only events with this text, in any case, in title or description.
    pub search: Option<String>,
    /// Only events that begin at this time or later.
    pub start_date_from: Option<Timestamp>,
    /// Only events that begin at this time or earlier.
    pub start_date_to: Option<Timestamp>,
    /// The sort column; ties are broken by id.
    pub sort_by: SortBy,
    /// The direction.
    pub sort_order: SortOrder,
    /// Events a page.
    pub limit: i64,
    /// Where the page begins.
    pub begin: PageBegin,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq)]
pub enum PageBegin {
    /// After this many events.
    Skip(i64),
    /// After this event.
    After(Cursor),
}

/// A page of events.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The events.
    pub events: Vec<Event>,
    /// Whether more follow.
    pub has_next: bool,
    /// Events that match, counted up to [`MAX_TOTAL`].
    pub total: i64,
}

/// Counting stops here: the cost of a page must not grow with the table.
pub const MAX_TOTAL: i64 = 10_000;

/// Title and description as they are searched, whatever their case and composition, in every script.
pub fn search_text(title: &str, description: &str) -> String {
    format!("{}\n{}", folded(title), folded(description))
}
