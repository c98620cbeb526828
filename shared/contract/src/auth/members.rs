//! `auth.members`: the members of the caller's organisation.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Role, User, UserId};
use crate::page::{CursorMeta, Item, invalid_cursor};
use crate::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Response, Route,
    Timestamp,
};

/// Lists members.
pub enum Members {}

/// Which page of the list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MembersRequest {
    /// Members a page, 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
    /// Continues after the page whose `meta.nextCursor` this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 256)]
    pub cursor: Option<String>,
}

impl MembersRequest {
    /// Members a page.
    pub const DEFAULT_LIMIT: i64 = 10;

    /// The member after whom the page begins.
    ///
    /// # Errors
    /// [`MembersError::InvalidCursor`].
    pub fn after(&self) -> Result<Option<UserId>, MembersError> {
        let read = |cursor: &String| UserId::parse(cursor).ok_or(MembersError::InvalidCursor);
        self.cursor.as_ref().map(read).transpose()
    }
}

impl Request for MembersRequest {}

/// A member as administrators see them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The user.
    #[serde(flatten)]
    pub user: User,
    /// Since when the member is locked out; `null` for all others.
    pub disabled_at: Option<Timestamp>,
}

impl Response for Member {}

impl Item for Member {
    // Two names of 50 characters, an address of 254, ids and times.
    const LARGEST: usize = 2048;
}

/// One page of members, in the order in which they joined.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemberPage {
    /// The members.
    pub data: Vec<Member>,
    /// Where the page stands.
    pub meta: CursorMeta,
}

impl Response for MemberPage {
    fn next_cursor(&self) -> Option<&str> {
        self.meta.next_cursor.as_deref()
    }
}

/// Why the list was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembersError {
    /// The cursor is none of this list.
    InvalidCursor,
}

impl OperationError for MembersError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::Forbidden];

    fn into_problem(self) -> Problem {
        match self {
            Self::InvalidCursor => Problem::invalid(vec![invalid_cursor()]),
        }
    }
}

impl Operation for Members {
    const SUBJECT: &'static str = "auth.members";
    const ROUTE: Route = Route { method: Method::Get, path: "/auth/members" };
    const SUMMARY: &'static str = "List the members of your organisation";
    const ACCESS: Access = Access::Role(Role::Admin);
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::Safe;
    type Request = MembersRequest;
    type Response = MemberPage;
    type Error = MembersError;
}
