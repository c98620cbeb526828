//! `auth.sessions`: where the caller is signed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::SessionId;
use crate::page::{CursorMeta, Item, decode_cursor, encode_cursor, invalid_cursor};
use crate::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Response, Route,
    Timestamp,
};

/// Lists the caller's sessions.
pub enum Sessions {}

/// Which page of the list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionsRequest {
    /// Sessions a page, 100 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
    /// Continues after the page whose `meta.nextCursor` this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 256)]
    pub cursor: Option<String>,
}

impl SessionsRequest {
    /// Sessions a page.
    pub const DEFAULT_LIMIT: i64 = 100;

    /// The session after which the page begins.
    ///
    /// # Errors
    /// [`SessionsError::InvalidCursor`].
    pub fn after(&self) -> Result<Option<SessionPosition>, SessionsError> {
        let read = |cursor: &String| decode_cursor(cursor).ok_or(SessionsError::InvalidCursor);
        self.cursor.as_ref().map(read).transpose()
    }
}

impl Request for SessionsRequest {}

/// Where a session stands in the list: when it was last used, and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPosition(pub Timestamp, pub SessionId);

/// Why the list was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionsError {
    /// The cursor is none of this list.
    InvalidCursor,
}

impl OperationError for SessionsError {
    const PROBLEMS: &'static [ProblemType] = &[];

    fn into_problem(self) -> Problem {
        match self {
            Self::InvalidCursor => Problem::invalid(vec![invalid_cursor()]),
        }
    }
}

/// One page of the caller's sessions, the one used last first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionList {
    /// The sessions.
    pub data: Vec<OpenSession>,
    /// Where the page stands.
    pub meta: CursorMeta,
}

impl Response for SessionList {
    fn next_cursor(&self) -> Option<&str> {
        self.meta.next_cursor.as_deref()
    }
}

/// One place where the caller is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenSession {
    /// The session's id.
    pub id: SessionId,
    /// When the caller signed in.
    pub created_at: Timestamp,
    /// When its tokens were last renewed.
    pub refreshed_at: Timestamp,
    /// When it ends, however active it is.
    pub expires_at: Timestamp,
    /// Whether it is the one that asks.
    pub current: bool,
}

impl OpenSession {
    /// The cursor that continues after it.
    pub fn cursor(&self) -> String {
        encode_cursor(&SessionPosition(self.refreshed_at, self.id))
    }
}

impl Item for OpenSession {
    const LARGEST: usize = 512;
}

impl Operation for Sessions {
    const SUBJECT: &'static str = "auth.sessions";
    const ROUTE: Route = Route { method: Method::Get, path: "/auth/sessions" };
    const SUMMARY: &'static str = "List where you are signed in";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::Safe;
    type Request = SessionsRequest;
    type Response = SessionList;
    type Error = SessionsError;
}
