//! `events.history`: everything that was done to an event.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EventStatus, HistoryAction, event_not_found};
use crate::auth::UserId;
use crate::page::{CursorMeta, Item, decode_cursor, encode_cursor, invalid_cursor};
use crate::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Response, Route,
    Timestamp,
};

/// Reads an event's history.
pub enum History {}

/// Whose history, and which page of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryRequest {
    /// The event's id. What is no UUID names no event.
    #[schema(max_length = 256)]
    pub id: String,
    /// Entries a page, 100 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
    /// Continues after the page whose `meta.nextCursor` this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 256)]
    pub cursor: Option<String>,
}

impl HistoryRequest {
    /// Entries a page.
    pub const DEFAULT_LIMIT: i64 = 100;

    /// The position of the entry after which the page begins.
    ///
    /// # Errors
    /// [`HistoryError::InvalidCursor`].
    pub fn after(&self) -> Result<Option<i64>, HistoryError> {
        let read = |cursor: &String| decode_cursor(cursor).ok_or(HistoryError::InvalidCursor);
        self.cursor.as_ref().map(read).transpose()
    }
}

impl Request for HistoryRequest {}

/// One page of an event's history, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HistoryPage {
    /// The entries.
    pub data: Vec<HistoryEntry>,
    /// Where the page stands.
    pub meta: CursorMeta,
}

impl Response for HistoryPage {
    fn next_cursor(&self) -> Option<&str> {
        self.meta.next_cursor.as_deref()
    }
}

/// One thing that was done to an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: UserId,
    /// What.
    pub action: HistoryAction,
    /// The status before; `null` for `created`.
    pub from: Option<EventStatus>,
    /// The status after; `null` for `deleted`.
    pub to: Option<EventStatus>,
    /// The reason of a rejection.
    pub reason: Option<String>,
    /// The request that did it.
    pub correlation_id: String,
}

/// An entry, and where it stands among all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PlacedEntry {
    /// The entry.
    pub entry: HistoryEntry,
    /// Grows from one entry of an event to the next.
    #[serde(skip)]
    pub position: i64,
}

impl PlacedEntry {
    /// The cursor that continues after it.
    pub fn cursor(&self) -> String {
        encode_cursor(&self.position)
    }
}

impl Item for PlacedEntry {
    // A reason of 500 characters, a correlation id of 128.
    const LARGEST: usize = 4096;
}

/// Why the history was not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryError {
    /// Absent, of another organisation, or not visible to the caller.
    NotFound,
    /// The caller may see the event, but not what led to it.
    NotAllowed(&'static str),
    /// The cursor is none of this list.
    InvalidCursor,
}

impl OperationError for HistoryError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::Forbidden, ProblemType::NotFound];

    fn into_problem(self) -> Problem {
        match self {
            Self::NotFound => event_not_found(),
            Self::NotAllowed(why) => Problem::new(ProblemType::Forbidden, why),
            Self::InvalidCursor => Problem::invalid(vec![invalid_cursor()]),
        }
    }
}

impl Operation for History {
    const SUBJECT: &'static str = "events.history";
    const ROUTE: Route = Route { method: Method::Get, path: "/events/{id}/history" };
    const SUMMARY: &'static str = "Read what was done to an event";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::Safe;
    type Request = HistoryRequest;
    type Response = HistoryPage;
    type Error = HistoryError;
}
