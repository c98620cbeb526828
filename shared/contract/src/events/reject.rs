//! `events.reject`: refuses a submitted event with a reason.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ChangeError, Event};
use crate::{Access, Method, Operation, Repeat, Request, Route};

/// Refuses an event.
pub enum Reject {}

/// Which event, and why.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectRequest {
    /// The event's id. What is no UUID names no event.
    #[schema(max_length = 256)]
    pub id: String,
    /// What the creator should know.
    #[schema(min_length = 10, max_length = 500, format = "text-block")]
    pub reason: String,
}

impl Request for RejectRequest {}

impl Operation for Reject {
    const SUBJECT: &'static str = "events.reject";
    const ROUTE: Route = Route { method: Method::Post, path: "/events/{id}/reject" };
    const SUMMARY: &'static str = "Refuse a submitted event with a reason";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::WithKey;
    type Request = RejectRequest;
    type Response = Event;
    type Error = ChangeError;
}
