//! Why a handler did not succeed.

use std::convert::Infallible;
use std::fmt::Display;

use crate::{Outcome, Problem, ProblemType, Violation};

/// The domain's reasons to refuse one operation.
pub trait OperationError: Send + 'static {
    /// Every problem [`into_problem`](Self::into_problem) can return.
    const PROBLEMS: &'static [ProblemType];
    /// The problem this refusal becomes.
    fn into_problem(self) -> Problem;
}

impl OperationError for Infallible {
    const PROBLEMS: &'static [ProblemType] = &[];

    fn into_problem(self) -> Problem {
        match self {}
    }
}

/// Why a handler did not succeed: the operation's own reasons, or one every operation shares.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure<E> {
    /// The domain refused.
    Refused(E),
    /// No caller, or one that does not exist any more.
    Unauthenticated(&'static str),
    /// The caller's role does not allow the operation at all.
    Forbidden(&'static str),
    /// Broken rules that only the worker can see.
    Invalid(Vec<Violation>),
    /// A refusal of the domain's that has been spelled out already.
    Problem(Problem),
    /// The idempotency key was used for another operation, object or body.
    KeyReused,
    /// The database cannot be reached or did not answer; nothing was done.
    StoreUnavailable,
    /// No room; nothing was done.
    Overloaded,
    /// Other changes were faster again and again; nothing was done.
    Contended,
    /// The deadline passed before the change was committed; nothing was done.
    Expired,
    /// The database was lost while it was asked to commit: the effect may have taken place.
    CommitUnknown,
    /// A defect; already logged.
    Internal,
}

impl<E> Failure<E> {
    /// Logs a defect with its cause and hides the cause from the client.
    pub fn internal(cause: &dyn Display) -> Self {
        tracing::error!(error = %cause, "internal failure");
        Self::Internal
    }

    /// Logs a failed commit. It is unknown whether it took effect before.
    pub fn commit_unknown(cause: &dyn Display) -> Self {
        tracing::error!(error = %cause, "a commit failed; its effect is unknown");
        Self::CommitUnknown
    }
}

impl<E: OperationError> Failure<E> {
    /// The problem this failure becomes.
    pub fn into_problem(self) -> Problem {
        match self {
            Self::Refused(error) => error.into_problem(),
            Self::Problem(problem) => problem,
            Self::Unauthenticated(detail) => Problem::new(ProblemType::Unauthenticated, detail),
            Self::Forbidden(detail) => Problem::new(ProblemType::Forbidden, detail),
            Self::Invalid(errors) => Problem::invalid(errors),
            Self::KeyReused => Problem::new(
                ProblemType::KeyReused,
                "the key was first used for another operation, object or body; use a new one",
            ),
            Self::StoreUnavailable => {
                Problem::new(ProblemType::Unavailable, "the database cannot be reached")
            }
            Self::Overloaded => Problem::new(ProblemType::Overloaded, "too many requests at the moment"),
            Self::Contended => {
                Problem::new(ProblemType::Contended, "other changes were faster again and again")
            }
            Self::Expired => Problem::new(
                ProblemType::DeadlineExceeded,
                "the deadline passed before the change was made; nothing was done",
            ),
            Self::CommitUnknown => Problem::new(
                ProblemType::ConnectionLost,
                "the database was lost while the change was committed",
            )
            .with_outcome(Outcome::Unknown),
            Self::Internal => {
                Problem::new(ProblemType::Internal, "the failure has been logged under this correlation id")
            }
        }
    }
}
