//! What a failure is to its caller: its kind, and the document that it becomes (RFC 9457).

use std::fmt::Display;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RequestIds;

/// The media type of every failure (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// What the `type` of every problem begins with.
const TYPE_PREFIX: &str = "urn:eventboard:problem:";

/// Every kind of failure the system answers with. The name is stable: clients match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemType {
    /// Cannot be parsed: JSON syntax, header syntax.
    MalformedRequest,
    /// No token, or one that does not verify.
    Unauthenticated,
    /// The login was refused, for whichever reason.
    InvalidCredentials,
    /// The caller may know of the object, but not do this to it.
    Forbidden,
    /// No such route or object, or one the caller may not see.
    NotFound,
    /// The route exists under other methods.
    MethodNotAllowed,
    /// Only JSON can be answered.
    NotAcceptable,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The object's status does not allow the action.
    WrongState,
    /// A write with this idempotency key is under way.
    KeyInProgress,
    /// The idempotency key was used for something else.
    KeyReused,
    /// The write took effect before, and its answer held a secret that is given once.
    AnswerGiven,
    /// The e-mail address is taken.
    EmailTaken,
    /// The organisation's name is taken.
    OrganizationTaken,
    /// The object is not the version named in `If-Match`.
    PreconditionFailed,
    /// The body is too large.
    PayloadTooLarge,
    /// The request target is too long.
    UriTooLong,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// The body is compressed or otherwise encoded.
    UnsupportedContentEncoding,
    /// More requests than the caller may make in this time.
    RateLimited,
    /// Well-formed JSON that breaks the schema or a rule.
    ValidationFailed,
    /// A defect on our side; nothing was done.
    Internal,
    /// An answer that is larger than the broker carries.
    ReplyTooLarge,
    /// A reply that cannot be understood.
    MalformedReply,
    /// Something the request needs cannot be reached; nothing was done.
    Unavailable,
    /// No room for the request at the moment; nothing was done.
    Overloaded,
    /// Other changes were faster again and again; nothing was done.
    Contended,
    /// No answer in time.
    DeadlineExceeded,
    /// The connection broke while the request was under way.
    ConnectionLost,
}

/// What is known about the effect of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing was done.
    None,
    /// The effect took place.
    Done,
    /// The effect may or may not have taken place.
    Unknown,
}

impl ProblemType {
    /// The one place where failures meet statuses, titles and names.
    const fn facts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::MalformedRequest => (400, "malformed-request", "The request cannot be parsed"),
            Self::Unauthenticated => (401, "unauthenticated", "A valid access token is required"),
            Self::InvalidCredentials => {
                (401, "invalid-credentials", "The e-mail address or password is wrong")
            }
            Self::Forbidden => (403, "forbidden", "You may not do this"),
            Self::NotFound => (404, "not-found", "There is nothing here that you can see"),
            Self::MethodNotAllowed => (405, "method-not-allowed", "This resource has other methods"),
            Self::NotAcceptable => (406, "not-acceptable", "Only JSON can be answered"),
            Self::RequestTimeout => (408, "request-timeout", "The request did not arrive in time"),
            Self::WrongState => (409, "wrong-state", "The status does not allow this"),
            Self::KeyInProgress => {
                (409, "idempotency-in-progress", "A request with this idempotency key is under way")
            }
            Self::KeyReused => {
                (422, "idempotency-key-reused", "The idempotency key was used for another request")
            }
            Self::AnswerGiven => (409, "answer-given", "This was done, and its answer was given once"),
            Self::EmailTaken => (409, "email-taken", "The e-mail address is taken"),
            Self::OrganizationTaken => (409, "organization-taken", "The organisation's name is taken"),
            Self::PreconditionFailed => (412, "precondition-failed", "The object has changed"),
            Self::PayloadTooLarge => (413, "payload-too-large", "The body is too large"),
            Self::UriTooLong => (414, "uri-too-long", "The request target is too long"),
            Self::UnsupportedMediaType => (415, "unsupported-media-type", "The body must be JSON"),
            Self::UnsupportedContentEncoding => {
                (415, "unsupported-content-encoding", "The body must be sent as it is")
            }
            Self::RateLimited => (429, "rate-limited", "Too many requests"),
            Self::ValidationFailed => (422, "validation-failed", "The request breaks a rule"),
            Self::Internal => (500, "internal", "Something went wrong on our side"),
            Self::ReplyTooLarge => (500, "reply-too-large", "The answer is too large"),
            Self::MalformedReply => (502, "malformed-reply", "A reply could not be understood"),
            Self::Unavailable => (503, "unavailable", "The service is not available"),
            Self::Overloaded => (503, "overloaded", "The service is busy"),
            Self::Contended => (503, "contended", "Too many changes at once"),
            Self::DeadlineExceeded => (504, "deadline-exceeded", "No answer in time"),
            Self::ConnectionLost => (504, "connection-lost", "The connection broke while waiting"),
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        self.facts().0
    }

    /// The last part of the `type` URI.
    pub const fn name(self) -> &'static str {
        self.facts().1
    }

    /// The short, constant summary.
    pub const fn title(self) -> &'static str {
        self.facts().2
    }

    /// The `type` URI.
    pub fn uri(self) -> String {
        format!("{TYPE_PREFIX}{}", self.name())
    }

    /// Whether the same request may succeed later, unchanged.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::RequestTimeout
                | Self::KeyInProgress
                | Self::RateLimited
                | Self::Unavailable
                | Self::Overloaded
                | Self::Contended
                | Self::DeadlineExceeded
                | Self::ConnectionLost
        )
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Violation {
    /// Where: a JSON pointer in URI-fragment form (RFC 6901 §6), `#/title`.
    pub pointer: String,
    /// Which rule, in a stable word.
    pub code: String,
    /// The rule for people. Never quotes the refused value.
    pub detail: String,
}

impl Violation {
    /// A violation of the top-level member `field`.
    pub fn at(field: &str, code: &str, detail: impl Into<String>) -> Self {
        let escaped = field.replace('~', "~0").replace('/', "~1");
        Self { pointer: format!("#/{escaped}"), code: code.to_owned(), detail: detail.into() }
    }
}

/// A failure on its way out: everything but the ids of the request it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The kind.
    pub kind: ProblemType,
    /// What happened this time.
    pub detail: String,
    /// What is known about the effect.
    pub outcome: Outcome,
    /// Broken rules, all of them.
    pub errors: Vec<Violation>,
    /// Seconds after which the same request may be sent again, where more is known than the kind says.
    pub retry_after: Option<u64>,
}

/// The body of every failure (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// A URI naming the kind of problem; stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// A constant summary of the kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// A URI naming this occurrence.
    pub instance: String,
    /// The id to search logs and traces with.
    pub correlation_id: String,
    /// The W3C trace id.
    pub trace_id: String,
    /// Whether the same request may succeed later, unchanged.
    pub retryable: bool,
    /// What is known about the effect.
    pub outcome: Outcome,
    /// Broken rules; empty for other problems.
    pub errors: Vec<Violation>,
}

impl Problem {
    /// A problem after which nothing has been done.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), outcome: Outcome::None, errors: Vec::new(), retry_after: None }
    }

    /// Broken rules.
    pub fn invalid(errors: Vec<Violation>) -> Self {
        let detail = match errors.as_slice() {
            [only] => format!("{} {}", only.pointer, only.detail),
            several => format!("{} rules are broken; see errors", several.len()),
        };
        Self { errors, ..Self::new(ProblemType::ValidationFailed, detail) }
    }

    /// A body beyond `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(ProblemType::PayloadTooLarge, format!("the body may have at most {limit} bytes"))
    }

    /// A defect: logged here with its cause, which the client never sees.
    pub fn internal(cause: &dyn Display) -> Self {
        tracing::error!(error = %cause, "internal failure");
        Self::new(ProblemType::Internal, "the failure has been logged under this correlation id")
    }

    /// The same problem with another outcome.
    #[must_use]
    pub fn with_outcome(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    /// The same problem, which may be gone after this time.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        // Rounded up: who comes back too early is refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after: Some(seconds.max(1)), ..self }
    }

    /// Whether the worker says that the request was not carried out, so that another may be asked.
    pub fn proves_nothing_ran(&self) -> bool {
        self.outcome == Outcome::None && matches!(self.kind.status(), 503 | 504)
    }

    /// The full body for the request with these ids.
    pub fn body(&self, ids: &RequestIds) -> ProblemBody {
        ProblemBody {
            kind: self.kind.uri(),
            title: self.kind.title().to_owned(),
            status: self.kind.status(),
            detail: self.detail.clone(),
            instance: format!("urn:eventboard:request:{}", ids.correlation_id),
            correlation_id: ids.correlation_id.as_str().to_owned(),
            trace_id: ids.trace.trace_id.to_string(),
            retryable: self.kind.retryable(),
            outcome: self.outcome,
            errors: self.errors.clone(),
        }
    }
}

impl ProblemBody {
    /// The last part of the `type` URI.
    pub fn name(&self) -> Option<&str> {
        self.kind.strip_prefix(TYPE_PREFIX)
    }

    /// The body as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and integers only: serialisation into memory has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
