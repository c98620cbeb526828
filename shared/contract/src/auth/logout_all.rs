//! `auth.logout_all`: ends every session of the caller's.

use std::convert::Infallible;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::MAX_AUTH_BODY;
use crate::{Access, Method, NoContent, Operation, Repeat, Request, Route};

/// Signs the caller out everywhere.
pub enum LogoutAll {}

/// Nothing: the token says who asks.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogoutAllRequest {}

impl Request for LogoutAllRequest {}

impl Operation for LogoutAll {
    const SUBJECT: &'static str = "auth.logout_all";
    const ROUTE: Route = Route { method: Method::Post, path: "/auth/logout-all" };
    const SUMMARY: &'static str = "End all your sessions";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(5);
    // It may end the token that a repetition would come with.
    const REPEAT: Repeat = Repeat::ByClient;
    const STATUS: u16 = 204;
    const MAX_BODY: usize = MAX_AUTH_BODY;
    type Request = LogoutAllRequest;
    type Response = NoContent;
    type Error = Infallible;
}
