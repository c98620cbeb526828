//! `events.history`: everything that was done to an event.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EventRequest, EventStatus, HistoryAction, event_not_found};
use crate::contract::auth::UserId;
use crate::contract::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Response, Route, Timestamp,
};

/// Reads an event's history.
pub enum History {}

/// An event's history, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HistoryPage {
    /// The entries.
    pub data: Vec<HistoryEntry>,
}

impl Response for HistoryPage {}

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

/// Why the history was not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryError {
    /// Absent, of another organisation, or not visible to the caller.
    NotFound,
    /// The caller may see the event, but not what led to it.
    NotAllowed(&'static str),
}

impl OperationError for HistoryError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::Forbidden, ProblemType::NotFound];

    fn into_problem(self) -> Problem {
        match self {
            Self::NotFound => event_not_found(),
            Self::NotAllowed(why) => Problem::new(ProblemType::Forbidden, why),
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
    type Request = EventRequest;
    type Response = HistoryPage;
    type Error = HistoryError;
}
