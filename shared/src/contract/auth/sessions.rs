//! `auth.sessions`: where the caller is signed in.

use std::convert::Infallible;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::SessionId;
use crate::contract::{Access, Method, Operation, Repeat, Request, Response, Route, Timestamp};

/// Lists the caller's sessions.
pub enum Sessions {}

/// Nothing: the token says who asks.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionsRequest {}

impl Request for SessionsRequest {}

/// The caller's sessions, the one used last first; a hundred at most.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionList {
    /// The sessions.
    pub data: Vec<OpenSession>,
}

impl Response for SessionList {}

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

impl Operation for Sessions {
    const SUBJECT: &'static str = "auth.sessions";
    const ROUTE: Route = Route { method: Method::Get, path: "/auth/sessions" };
    const SUMMARY: &'static str = "List where you are signed in";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::Safe;
    type Request = SessionsRequest;
    type Response = SessionList;
    type Error = Infallible;
}
