//! `events.withdraw`: takes a submitted event back to draft.

use std::time::Duration;

use super::{ChangeError, Event, EventRequest};
use crate::{Access, Method, Operation, Repeat, Route};

/// Takes an event back.
pub enum Withdraw {}

impl Operation for Withdraw {
    const SUBJECT: &'static str = "events.withdraw";
    const ROUTE: Route = Route { method: Method::Post, path: "/events/{id}/withdraw" };
    const SUMMARY: &'static str = "Take a submitted event back";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::WithKey;
    type Request = EventRequest;
    type Response = Event;
    type Error = ChangeError;
}
