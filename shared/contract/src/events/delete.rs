//! `events.delete`: removes an event; its history stays.

use std::time::Duration;

use super::{ChangeError, EventRequest};
use crate::{Access, Method, NoContent, Operation, Repeat, Route};

/// Removes an event.
pub enum Delete {}

impl Operation for Delete {
    const SUBJECT: &'static str = "events.delete";
    const ROUTE: Route = Route { method: Method::Delete, path: "/events/{id}" };
    const SUMMARY: &'static str = "Remove an event";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::WithKey;
    const STATUS: u16 = 204;
    type Request = EventRequest;
    type Response = NoContent;
    type Error = ChangeError;
}
