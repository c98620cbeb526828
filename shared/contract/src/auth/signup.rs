//! `auth.signup`: a new user in a new organisation, or by invitation in an existing one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Email, MAX_AUTH_BODY, RefusedPassword, Secret, SignedIn};
use crate::{
    Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Route, Violation,
};

/// Creates an account and signs it in.
pub enum Signup {}

/// Who signs up, and where.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignupRequest {
    /// The address to sign in with; unique.
    pub email: Email,
    /// 8 to 128 characters, none of the common ones.
    #[schema(value_type = String, min_length = 8, max_length = 128, format = Password)]
    pub password: Secret,
    /// Given name.
    #[schema(min_length = 1, max_length = 50, format = "text-line")]
    pub first_name: String,
    /// Family name.
    #[schema(min_length = 1, max_length = 50, format = "text-line")]
    pub last_name: String,
    /// Founds this organisation and makes the caller its administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 2, max_length = 100, format = "text-line")]
    pub organization_name: Option<String>,
    /// Joins the organisation that issued this invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, min_length = 1, max_length = 512)]
    pub invitation: Option<Secret>,
}

impl Request for SignupRequest {
    fn rules(body: &Map<String, Value>) -> Vec<Violation> {
        match (body.contains_key("organizationName"), body.contains_key("invitation")) {
            (false, false) => {
                vec![Violation::at(
                    "organizationName",
                    "required",
                    "is required, unless an invitation is given",
                )]
            }
            (true, true) => {
                vec![Violation::at("invitation", "conflict", "cannot be combined with organizationName")]
            }
            _ => Vec::new(),
        }
    }
}

/// Why signup was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignupError {
    /// The address belongs to an account.
    EmailTaken,
    /// The organisation exists.
    OrganizationTaken,
    /// The invitation is unknown, used, expired, or for another address.
    InvalidInvitation,
    /// The password must not be used.
    Refused(RefusedPassword),
    /// The organisation's name has no letter or digit.
    EmptySlug,
}

impl OperationError for SignupError {
    const PROBLEMS: &'static [ProblemType] =
        &[ProblemType::EmailTaken, ProblemType::OrganizationTaken, ProblemType::AnswerGiven];

    fn into_problem(self) -> Problem {
        match self {
            Self::EmailTaken => {
                Problem::new(ProblemType::EmailTaken, "an account with this e-mail address exists")
            }
            Self::OrganizationTaken => Problem::new(
                ProblemType::OrganizationTaken,
                "this organisation exists; ask its administrator for an invitation",
            ),
            Self::InvalidInvitation => Problem::invalid(vec![Violation::at(
                "invitation",
                "invalid",
                "is unknown, used, expired, or meant for another e-mail address",
            )]),
            Self::Refused(refused) => refused.into_problem("password"),
            Self::EmptySlug => Problem::invalid(vec![Violation::at(
                "organizationName",
                "wrong_format",
                "must contain a letter or a digit",
            )]),
        }
    }
}

impl Operation for Signup {
    const SUBJECT: &'static str = "auth.signup";
    const ROUTE: Route = Route { method: Method::Post, path: "/auth/signup" };
    const SUMMARY: &'static str = "Create an account in a new organisation, or join one by invitation";
    const ACCESS: Access = Access::Public;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::ByClient;
    const STATUS: u16 = 201;
    const MAX_BODY: usize = MAX_AUTH_BODY;
    type Request = SignupRequest;
    type Response = SignedIn;
    type Error = SignupError;
}
