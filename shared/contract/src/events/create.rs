//! `events.create`: a new draft.

use std::convert::Infallible;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Event;
use crate::{Access, Method, Operation, Repeat, Request, Route, Timestamp, Violation};

/// Writes a draft.
pub enum Create {}

/// The event's content.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateRequest {
    /// One line.
    #[schema(min_length = 3, max_length = 200, format = "text-line")]
    pub title: String,
    /// Several lines.
    #[schema(min_length = 1, max_length = 5000, format = "text-block")]
    pub description: String,
    /// Where, if anywhere.
    #[serde(default)]
    #[schema(max_length = 200, format = "text-line")]
    pub location: Option<String>,
    /// When it begins.
    pub start_date: Timestamp,
    /// When it ends; after it begins.
    pub end_date: Timestamp,
}

impl Request for CreateRequest {
    fn rules(body: &Map<String, Value>) -> Vec<Violation> {
        dates_in_order(body)
    }
}

/// `endDate` must be after `startDate`, where both are given.
pub(super) fn dates_in_order(body: &Map<String, Value>) -> Vec<Violation> {
    let date = |name| body.get(name).and_then(Value::as_str).and_then(Timestamp::parse);
    match (date("startDate"), date("endDate")) {
        (Some(start), Some(end)) if end <= start => vec![ends_before_start()],
        _ => Vec::new(),
    }
}

pub(super) fn ends_before_start() -> Violation {
    Violation::at("endDate", "not_after_start", "must be after startDate")
}

impl Operation for Create {
    const SUBJECT: &'static str = "events.create";
    const ROUTE: Route = Route { method: Method::Post, path: "/events" };
    const SUMMARY: &'static str = "Draft an event";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::WithKey;
    const STATUS: u16 = 201;
    type Request = CreateRequest;
    type Response = Event;
    type Error = Infallible;

    fn location(event: &Event) -> Option<String> {
        Some(format!("/events/{}", event.id))
    }
}
