//! `events.update`: edits an event; fields that are not sent stay as they are.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::create::{dates_in_order, ends_before_start};
use super::{ChangeError, Event, present};
use crate::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Route, Timestamp,
    Violation,
};

/// Edits an event.
pub enum Update {}

/// The fields to change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateRequest {
    /// The event's id. What is no UUID names no event.
    #[schema(max_length = 256)]
    pub id: String,
    /// One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 3, max_length = 200, format = "text-line")]
    pub title: Option<String>,
    /// Several lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 5000, format = "text-block")]
    pub description: Option<String>,
    /// Where; `null` removes it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 200, format = "text-line")]
    pub location: Option<Option<String>>,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub start_date: Option<Timestamp>,
    /// When it ends; after it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub end_date: Option<Timestamp>,
}

impl Request for UpdateRequest {
    fn rules(body: &Map<String, Value>) -> Vec<Violation> {
        dates_in_order(body)
    }
}

/// Why the edit was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateError {
    /// As for any change.
    Change(ChangeError),
    /// The merged event would end before it begins.
    EndsBeforeStart,
}

impl From<ChangeError> for UpdateError {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

impl OperationError for UpdateError {
    const PROBLEMS: &'static [ProblemType] = ChangeError::PROBLEMS;

    fn into_problem(self) -> Problem {
        match self {
            Self::Change(error) => error.into_problem(),
            Self::EndsBeforeStart => Problem::invalid(vec![ends_before_start()]),
        }
    }
}

impl Operation for Update {
    const SUBJECT: &'static str = "events.update";
    const ROUTE: Route = Route { method: Method::Patch, path: "/events/{id}" };
    const SUMMARY: &'static str = "Edit an event; an approved one re-enters the queue";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(10);
    const REPEAT: Repeat = Repeat::WithKey;
    type Request = UpdateRequest;
    type Response = Event;
    type Error = UpdateError;
}
