//! Operations and types of the events service.

mod approve;
mod create;
mod delete;
mod get;
mod history;
mod list;
mod reject;
mod submit;
mod update;
mod withdraw;

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::{OrganizationId, UserId, id};
use super::{EntityTag, OperationError, Problem, ProblemType, Request, Response, Timestamp};

pub use approve::Approve;
pub use create::{Create, CreateRequest};
pub use delete::Delete;
pub use get::{Get, GetError};
pub use history::{History, HistoryEntry, HistoryError, HistoryPage, HistoryRequest, PlacedEntry};
pub use list::{EventPage, List, ListError, ListRequest, MAX_PAGE_DEPTH, PageMeta, SortBy, SortOrder};
pub use reject::{Reject, RejectRequest};
pub use submit::Submit;
pub use update::{Update, UpdateError, UpdateRequest};
pub use withdraw::Withdraw;

crate::service! {
    /// Everything the events worker must answer.
    EventHandlers, "events", admin port 9102,
    [List, Get, History],
    keyed [Create, Update, Delete, Submit, Withdraw, Approve, Reject]
}

id! {
    /// An event.
    EventId
}

/// Where an event stands in moderation.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE")]
pub enum EventStatus {
    /// Being written; only its creator and moderators see it.
    Draft,
    /// Waiting for a decision.
    Submitted,
    /// Published to the organisation.
    Approved,
    /// Refused, with a reason; its creator may edit and submit it again.
    Rejected,
}

impl EventStatus {
    /// The status as it stands in JSON and rows.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What was done to an event, as its history and its domain events name it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum HistoryAction {
    /// Written down for the first time.
    Created,
    /// Edited.
    Updated,
    /// Handed in for a decision.
    Submitted,
    /// Taken back by its creator.
    Withdrawn,
    /// Published.
    Approved,
    /// Refused.
    Rejected,
    /// Removed.
    Deleted,
}

impl HistoryAction {
    /// The action as it stands in JSON and rows.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The event's id.
    pub id: EventId,
    /// One line.
    pub title: String,
    /// Several lines.
    pub description: String,
    /// Where, if anywhere.
    pub location: Option<String>,
    /// When it begins.
    pub start_date: Timestamp,
    /// When it ends; after it begins.
    pub end_date: Timestamp,
    /// Where it stands in moderation.
    pub status: EventStatus,
    /// Why it was refused, while it is.
    pub rejection_reason: Option<String>,
    /// The organisation it belongs to.
    pub organization_id: OrganizationId,
    /// Who wrote it.
    pub created_by_id: UserId,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts its changes from 1; the number in its `ETag`.
    pub version: i64,
}

impl super::keyed::sealed::SecretFree for Event {}

impl super::page::Item for Event {
    // Texts of 200, 5000, 200 and 500 characters, of four bytes each, and what has a fixed size.
    const LARGEST: usize = 24 * 1024 + 512;
}

impl Response for Event {
    fn etag(&self) -> Option<EntityTag> {
        Some(EntityTag(self.version))
    }
}

/// Names one event.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventRequest {
    /// The event's id. What is no UUID names no event.
    #[schema(max_length = 256)]
    pub id: String,
}

impl Request for EventRequest {}

/// Why a change to an existing event was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeError {
    /// Absent, of another organisation, or not visible to the caller.
    NotFound,
    /// Role or ownership forbids it, whatever the status.
    NotAllowed(&'static str),
    /// The status forbids it.
    WrongState {
        /// What was asked for, as a verb.
        action: &'static str,
        /// Where the event stands.
        status: EventStatus,
    },
    /// The event is not the version named in `If-Match`.
    VersionMismatch(EntityTag),
    /// It is, but by a weak tag, which says no more than that the content is much the same.
    WeakTag(EntityTag),
    /// The event is the version named in `If-None-Match`.
    VersionMatch(EntityTag),
}

impl OperationError for ChangeError {
    const PROBLEMS: &'static [ProblemType] = &[
        ProblemType::Forbidden,
        ProblemType::NotFound,
        ProblemType::WrongState,
        ProblemType::PreconditionFailed,
    ];

    fn into_problem(self) -> Problem {
        match self {
            Self::NotFound => event_not_found(),
            Self::NotAllowed(why) => Problem::new(ProblemType::Forbidden, why),
            Self::WrongState { action, status } => Problem::new(
                ProblemType::WrongState,
                format!("cannot {action} an event that is {}", status.as_str()),
            ),
            Self::VersionMismatch(current) => Problem::new(
                ProblemType::PreconditionFailed,
                format!("the event has changed; its current ETag is {current}"),
            ),
            Self::WeakTag(current) => Problem::new(
                ProblemType::PreconditionFailed,
                format!(
                    "If-Match compares strongly, and W/{current} is a weak ETag, as a proxy that compresses makes it; \
                     send {current}"
                ),
            ),
            Self::VersionMatch(current) => Problem::new(
                ProblemType::PreconditionFailed,
                format!("the event is there, and If-None-Match names its current ETag {current}"),
            ),
        }
    }
}

fn event_not_found() -> Problem {
    Problem::new(ProblemType::NotFound, "there is no such event, or you may not see it")
}

impl fmt::Display for EventStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names that a request schema must not leave to serde: `null` and "absent" differ in a PATCH.
pub(crate) fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}
