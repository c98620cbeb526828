//! `auth.refresh`: a refresh token for a new pair of tokens.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MAX_AUTH_BODY, Secret, SignedIn};
use crate::{Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Route};

/// Rotates a session's tokens.
pub enum Refresh {}

/// The token to exchange.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefreshRequest {
    /// The session's newest refresh token.
    // Of any length: what is none of ours is refused as such, whatever it looks like.
    #[schema(value_type = String)]
    pub refresh_token: Secret,
}

impl Request for RefreshRequest {}

/// Why refresh was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshError {
    /// Forged, replaced, expired, or of an ended session.
    InvalidToken,
}

impl OperationError for RefreshError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::Unauthenticated];

    fn into_problem(self) -> Problem {
        match self {
            Self::InvalidToken => {
                Problem::new(ProblemType::Unauthenticated, "the refresh token is not valid; sign in again")
            }
        }
    }
}

impl Operation for Refresh {
    const SUBJECT: &'static str = "auth.refresh";
    const ROUTE: Route = Route { method: Method::Post, path: "/auth/refresh" };
    const SUMMARY: &'static str = "Exchange a refresh token for a new pair";
    const ACCESS: Access = Access::Public;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::Never;
    const MAX_BODY: usize = MAX_AUTH_BODY;
    type Request = RefreshRequest;
    type Response = SignedIn;
    type Error = RefreshError;
}
