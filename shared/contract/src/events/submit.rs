//! `events.submit`: hands a draft or a rejected event in for a decision.

use std::time::Duration;

use super::{ChangeError, Event, EventRequest};
use crate::{Access, Method, Operation, Repeat, Route};

/// Hands an event in.
pub enum Submit {}

impl Operation for Submit {
    const SUBJECT: &'static str = "events.submit";
    const ROUTE: Route = Route { method: Method::Post, path: "/events/{id}/submit" };
    const SUMMARY: &'static str = "Hand an event in for a decision";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::WithKey;
    type Request = EventRequest;
    type Response = Event;
    type Error = ChangeError;
}
