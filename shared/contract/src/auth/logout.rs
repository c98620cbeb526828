//! `auth.logout`: ends the session a refresh token belongs to.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MAX_AUTH_BODY, RefreshError, Secret};
use crate::{Access, Method, NoContent, Operation, Repeat, Request, Route};

/// Ends a session.
pub enum Logout {}

/// The session's token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogoutRequest {
    /// The session's refresh token.
    // Of any length: what is none of ours is refused as such, whatever it looks like.
    #[schema(value_type = String)]
    pub refresh_token: Secret,
}

impl Request for LogoutRequest {}

impl Operation for Logout {
    const SUBJECT: &'static str = "auth.logout";
    const ROUTE: Route = Route { method: Method::Post, path: "/auth/logout" };
    const SUMMARY: &'static str = "End a session";
    const ACCESS: Access = Access::Public;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::Never;
    const STATUS: u16 = 204;
    const MAX_BODY: usize = MAX_AUTH_BODY;
    type Request = LogoutRequest;
    type Response = NoContent;
    type Error = RefreshError;
}
