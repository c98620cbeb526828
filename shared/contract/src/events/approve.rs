//! `events.approve`: publishes a submitted event.

use std::time::Duration;

use super::{ChangeError, Event, EventRequest};
use crate::{Access, Method, Operation, Repeat, Route};

/// Publishes an event.
pub enum Approve {}

impl Operation for Approve {
    const SUBJECT: &'static str = "events.approve";
    const ROUTE: Route = Route { method: Method::Post, path: "/events/{id}/approve" };
    const SUMMARY: &'static str = "Publish a submitted event";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::WithKey;
    type Request = EventRequest;
    type Response = Event;
    type Error = ChangeError;
}
