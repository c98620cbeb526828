//! `auth.update_member`: changes a member's role, or locks them out.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{MAX_AUTH_BODY, Member, Role};
use crate::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Route, Violation,
};

/// Changes what a member may do.
pub enum UpdateMember {}

/// What to change; what is not sent stays.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateMemberRequest {
    /// The member's id. What is no UUID names no member.
    #[schema(max_length = 256)]
    pub id: String,
    /// The new role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub role: Option<Role>,
    /// Whether the member is locked out. Ends all their sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub disabled: Option<bool>,
}

impl Request for UpdateMemberRequest {
    fn rules(body: &Map<String, Value>) -> Vec<Violation> {
        if body.contains_key("role") || body.contains_key("disabled") {
            Vec::new()
        } else {
            vec![Violation::at("role", "required", "is required, unless disabled is given")]
        }
    }
}

/// Why the member was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateMemberError {
    /// Absent, or of another organisation.
    NotFound,
    /// The caller is the member: an organisation must not lose its last administrator.
    Oneself,
    /// The caller is no administrator any more.
    NotPermitted,
}

impl OperationError for UpdateMemberError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::Forbidden, ProblemType::NotFound];

    fn into_problem(self) -> Problem {
        match self {
            Self::NotFound => Problem::new(ProblemType::NotFound, "your organisation has no such member"),
            Self::Oneself => Problem::new(
                ProblemType::Forbidden,
                "administrators cannot change their own role or lock themselves out",
            ),
            Self::NotPermitted => Problem::new(ProblemType::Forbidden, "this needs the role ADMIN"),
        }
    }
}

impl Operation for UpdateMember {
    const SUBJECT: &'static str = "auth.update_member";
    const ROUTE: Route = Route { method: Method::Patch, path: "/auth/members/{id}" };
    const SUMMARY: &'static str = "Change a member's role, or lock them out";
    const ACCESS: Access = Access::Role(Role::Admin);
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::WithKey;
    const MAX_BODY: usize = MAX_AUTH_BODY;
    type Request = UpdateMemberRequest;
    type Response = Member;
    type Error = UpdateMemberError;
}
