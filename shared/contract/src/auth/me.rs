//! `auth.me`: the caller's own account.

use std::convert::Infallible;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Organization, User};
use crate::{Access, Method, Operation, Repeat, Request, Response, Route};

/// Reads the caller's account.
pub enum Me {}

/// Nothing: the token says who asks.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MeRequest {}

impl Request for MeRequest {}

/// A user with their organisation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// The user.
    #[serde(flatten)]
    pub user: User,
    /// The user's organisation.
    pub organization: Organization,
}

impl Response for Account {}

impl Operation for Me {
    const SUBJECT: &'static str = "auth.me";
    const ROUTE: Route = Route { method: Method::Get, path: "/auth/me" };
    const SUMMARY: &'static str = "Read your own account";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::Safe;
    type Request = MeRequest;
    type Response = Account;
    type Error = Infallible;
}
