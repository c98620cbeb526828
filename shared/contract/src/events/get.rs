//! `events.get`: one event.

use std::time::Duration;

use super::{Event, EventRequest, event_not_found};
use crate::{Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Route};

/// Reads an event.
pub enum Get {}

/// Why the event was not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetError {
    /// Absent, of another organisation, or not visible to the caller.
    NotFound,
}

impl OperationError for GetError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::NotFound, ProblemType::PreconditionFailed];

    fn into_problem(self) -> Problem {
        match self {
            Self::NotFound => event_not_found(),
        }
    }
}

impl Operation for Get {
    const SUBJECT: &'static str = "events.get";
    const ROUTE: Route = Route { method: Method::Get, path: "/events/{id}" };
    const SUMMARY: &'static str = "Read an event";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::Safe;
    type Request = EventRequest;
    type Response = Event;
    type Error = GetError;
}
