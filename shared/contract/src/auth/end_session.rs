//! `auth.end_session`: ends one of the caller's sessions.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Access, Method, NoContent, Operation, OperationError, Problem, ProblemType, Repeat, Request, Route,
};

/// Ends a session by its id.
pub enum EndSession {}

/// Names one session.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndSessionRequest {
    /// The session's id. What is no UUID names no session.
    #[schema(max_length = 256)]
    pub id: String,
}

impl Request for EndSessionRequest {}

/// Why the session was not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSessionError {
    /// Absent, over, or another user's.
    NotFound,
}

impl OperationError for EndSessionError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::NotFound];

    fn into_problem(self) -> Problem {
        match self {
            Self::NotFound => Problem::new(ProblemType::NotFound, "you have no such session"),
        }
    }
}

impl Operation for EndSession {
    const SUBJECT: &'static str = "auth.end_session";
    const ROUTE: Route = Route { method: Method::Delete, path: "/auth/sessions/{id}" };
    const SUMMARY: &'static str = "End one of your sessions";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(5);
    // It may end the token that a repetition would come with.
    const REPEAT: Repeat = Repeat::ByClient;
    const STATUS: u16 = 204;
    type Request = EndSessionRequest;
    type Response = NoContent;
    type Error = EndSessionError;
}
