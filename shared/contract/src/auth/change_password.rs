//! `auth.change_password`: a new password, and the end of every other session.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::login::too_many_failures;
use super::{MAX_AUTH_BODY, RefusedPassword, Secret};
use crate::{
    Access, Method, NoContent, Operation, OperationError, Problem, ProblemType, Repeat, Request, Route,
};

/// Changes the caller's password.
pub enum ChangePassword {}

/// The password that was, and the one that will be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangePasswordRequest {
    /// The password until now.
    #[schema(value_type = String, min_length = 1, max_length = 128, format = Password)]
    pub current_password: Secret,
    /// 8 to 128 characters, none of the common ones.
    #[schema(value_type = String, min_length = 8, max_length = 128, format = Password)]
    pub new_password: Secret,
}

impl Request for ChangePasswordRequest {}

/// Why the password was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangePasswordError {
    /// The current password is another one.
    WrongPassword,
    /// Too many failures before; the next attempt may come after this time.
    TooManyFailures(Duration),
    /// The new one must not be used.
    Refused(RefusedPassword),
}

impl OperationError for ChangePasswordError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::InvalidCredentials];

    fn into_problem(self) -> Problem {
        match self {
            Self::WrongPassword => {
                Problem::new(ProblemType::InvalidCredentials, "the current password is another one")
            }
            Self::TooManyFailures(pause) => too_many_failures(pause),
            Self::Refused(refused) => refused.into_problem("newPassword"),
        }
    }
}

impl Operation for ChangePassword {
    const SUBJECT: &'static str = "auth.change_password";
    const ROUTE: Route = Route { method: Method::Post, path: "/auth/password" };
    const SUMMARY: &'static str = "Change your password, and end your other sessions";
    const ACCESS: Access = Access::SignedIn;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::ByClient;
    const STATUS: u16 = 204;
    const MAX_BODY: usize = MAX_AUTH_BODY;
    const TELLS_CLIENT_NETWORK: bool = true;
    type Request = ChangePasswordRequest;
    type Response = NoContent;
    type Error = ChangePasswordError;
}
