//! `auth.invite`: invites an address into the caller's organisation.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Email, MAX_AUTH_BODY, Role, Secret};
use crate::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Response, Route,
    Timestamp,
};

/// Invites an address.
pub enum Invite {}

/// Whom to invite, and as what.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// The address that may sign up with the invitation.
    pub email: Email,
    /// The role it will have.
    pub role: Role,
}

impl Request for InviteRequest {}

/// An issued invitation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Invitation {
    /// The secret to hand to the invited person; shown only here.
    pub invitation: Secret,
    /// When it stops working.
    pub expires_at: Timestamp,
}

impl Response for Invitation {}

/// Why the invitation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InviteError {
    /// The address belongs to an account.
    EmailTaken,
}

impl OperationError for InviteError {
    const PROBLEMS: &'static [ProblemType] =
        &[ProblemType::Forbidden, ProblemType::EmailTaken, ProblemType::AnswerGiven];

    fn into_problem(self) -> Problem {
        match self {
            Self::EmailTaken => {
                Problem::new(ProblemType::EmailTaken, "an account with this e-mail address exists")
            }
        }
    }
}

impl Operation for Invite {
    const SUBJECT: &'static str = "auth.invite";
    const ROUTE: Route = Route { method: Method::Post, path: "/auth/invitations" };
    const SUMMARY: &'static str = "Invite a person into your organisation";
    const ACCESS: Access = Access::Role(Role::Admin);
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::ByClient;
    const STATUS: u16 = 201;
    const MAX_BODY: usize = MAX_AUTH_BODY;
    type Request = InviteRequest;
    type Response = Invitation;
    type Error = InviteError;
}
