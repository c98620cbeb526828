//! `auth.login`: an e-mail address and a password for a session.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Email, MAX_AUTH_BODY, Secret, SignedIn};
use crate::{Access, Method, Operation, OperationError, Problem, ProblemType, Repeat, Request, Route};

/// Signs a user in.
pub enum Login {}

/// The credentials.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The account's address.
    pub email: Email,
    /// The account's password.
    #[schema(value_type = String, min_length = 1, max_length = 128, format = Password)]
    pub password: Secret,
}

impl Request for LoginRequest {}

/// Why login was refused. One variant for every cause: an answer does not reveal which accounts exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginError {
    /// Unknown address or wrong password.
    InvalidCredentials,
    /// Too many failures before; the next attempt may come after this time.
    TooManyFailures(Duration),
}

impl OperationError for LoginError {
    const PROBLEMS: &'static [ProblemType] = &[ProblemType::InvalidCredentials];

    fn into_problem(self) -> Problem {
        match self {
            Self::InvalidCredentials => {
                Problem::new(ProblemType::InvalidCredentials, "the e-mail address or the password is wrong")
            }
            Self::TooManyFailures(pause) => too_many_failures(pause),
        }
    }
}

pub(super) fn too_many_failures(pause: Duration) -> Problem {
    Problem::new(ProblemType::RateLimited, "too many failed attempts; see Retry-After")
        .with_retry_after(pause)
}

impl Operation for Login {
    const SUBJECT: &'static str = "auth.login";
    const ROUTE: Route = Route { method: Method::Post, path: "/auth/login" };
    const SUMMARY: &'static str = "Sign in";
    const ACCESS: Access = Access::Public;
    const DEADLINE: Duration = Duration::from_secs(5);
    const REPEAT: Repeat = Repeat::Never;
    const MAX_BODY: usize = MAX_AUTH_BODY;
    const TELLS_CLIENT_NETWORK: bool = true;
    type Request = LoginRequest;
    type Response = SignedIn;
    type Error = LoginError;
}
