//! `events.list`: the events the caller may see, filtered, sorted and paged.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Event, EventStatus};
use crate::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Response, Route,
    Timestamp, Violation,
};

/// Lists events.
pub enum List {}

/// How many rows `page` may skip: numbered pages cost what they skip, cursors do not.
pub const MAX_PAGE_DEPTH: i64 = 10_000;

/// The column events are sorted by; ties are broken by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum SortBy {
    /// When the event was written.
    CreatedAt,
    /// When the event begins.
    #[default]
    StartDate,
    /// By the title's code points.
    Title,
    /// APPROVED, DRAFT, REJECTED, SUBMITTED.
    Status,
}

/// The direction of the sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SortOrder {
    /// Smallest first.
    #[default]
    Asc,
    /// Largest first.
    Desc,
}

/// Which events, in which order, and which page of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListRequest {
    /// Only events that stand here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub status: Option<EventStatus>,
    /// Only events with this text in title or description, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 200, format = "text-line")]
    pub search: Option<String>,
    /// Only events that begin at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub start_date_from: Option<Timestamp>,
    /// Only events that begin at this time or earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub start_date_to: Option<Timestamp>,
    /// The column to sort by; `startDate` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sort_by: Option<SortBy>,
    /// The direction; ascending by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sort_order: Option<SortOrder>,
    /// Events a page, 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
    /// Continues after the page whose `meta.nextCursor` this is; keep filters and sort the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 2048)]
    pub cursor: Option<String>,
    /// The number of the page, from 1; not together with `cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 10000)]
    pub page: Option<i64>,
}

impl ListRequest {
    /// Events a page.
    pub const DEFAULT_LIMIT: i64 = 10;
}

impl Request for ListRequest {
    fn rules(body: &Map<String, Value>) -> Vec<Violation> {
        let mut found = Vec::new();
        let page = body.get("page").and_then(Value::as_i64);
        let limit = body.get("limit").and_then(Value::as_i64).unwrap_or(Self::DEFAULT_LIMIT);
        if body.contains_key("cursor") && body.contains_key("page") {
            found.push(Violation::at("page", "conflict", "cannot be combined with cursor"));
        }
        if page.is_some_and(|page| page.saturating_sub(1).saturating_mul(limit) > MAX_PAGE_DEPTH) {
            let rule = format!("must not skip more than {MAX_PAGE_DEPTH} events; use cursor to go on");
            found.push(Violation::at("page", "too_deep", rule));
        }
        found
    }
}

/// One page of events.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// The events.
    pub data: Vec<Event>,
    /// Where the page stands.
    pub meta: PageMeta,
}

impl Response for EventPage {
    fn next_cursor(&self) -> Option<&str> {
        self.meta.next_cursor.as_deref()
    }
}

/// Where a page stands among the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PageMeta {
    /// The number of the page; absent when the page was reached by cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<i64>,
    /// Events a page.
    pub limit: i64,
    /// Events that match, counted up to 10,000.
    pub total: i64,
    /// Pages that `total` makes.
    pub total_pages: i64,
    /// Whether a page precedes this one.
    pub has_previous: bool,
    /// Whether a page follows this one.
    pub has_next: bool,
    /// Continues after this page, while one follows.
    pub next_cursor: Option<String>,
}

/// Why the list was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListError {
    /// The cursor is damaged, or of another sort.
    InvalidCursor,
    /// The events of this numbered page are larger than a message carries.
    PageTooLarge,
}

impl OperationError for ListError {
    const PROBLEMS: &'static [ProblemType] = &[];

    fn into_problem(self) -> Problem {
        match self {
            Self::InvalidCursor => Problem::invalid(vec![Violation::at(
                "cursor",
                "invalid",
                "is not a cursor of this list; take meta.nextCursor and keep sortBy and sortOrder",
            )]),
            // Shrunk, it would hide events from who goes on with the next number.
            Self::PageTooLarge => Problem::invalid(vec![Violation::at(
                "limit",
                "too_large",
                "makes a page that is larger than a message carries; ask for fewer events, or follow meta.nextCursor",
            )]),
        }
    }
}

impl Operation for List {
    const SUBJECT: &'static str = "events.list";
    const ROUTE: Route = Route { method: Method::Get, path: "/events" };
    const SUMMARY: &'static str = "List the events you may see";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::Safe;
    type Request = ListRequest;
    type Response = EventPage;
    type Error = ListError;
}
