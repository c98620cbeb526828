//! The contract: what an operation is, who may call it, and how a worker takes it up.
//!
//! Every operation is declared once, in one file under `auth/` or `events/`, and used by both
//! sides: the gateway routes it, a worker handles it, the documents describe it.

pub mod auth;
pub mod context;
pub mod endpoint;
pub mod events;
mod failure;
pub mod json;
pub mod keyed;
pub mod page;
pub mod problem;
pub mod schema;
pub mod service;
pub mod text;
pub mod timestamp;
pub mod trace;

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub use context::{
    ClientNetwork, Context, CorrelationId, EntityTag, IdempotencyKey, Precondition, Principal, RequestIds,
    begin_by,
};
pub use endpoint::{Answer, Decoded, Endpoint};
pub use failure::{Failure, OperationError};
pub use keyed::{
    HandleKeyed, HandleOnce, IdempotentRequest, KeyOrigin, NoReplay, Replayable, SavedResponse,
    SavedResponses,
};
pub use problem::{Outcome, Problem, ProblemType, Violation};
pub use schema::RequestDecoder;
pub use service::{OperationVisitor, Service};
pub use timestamp::Timestamp;
pub use trace::TraceContext;

use auth::Role;

/// Who may call an operation. Rules that need the stored object live in the worker's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone, without a token.
    Public,
    /// Anyone with a valid access token.
    SignedIn,
    /// A valid access token that carries this role.
    Role(Role),
}

/// Whether a message may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A read: any number of times.
    Safe,
    /// A write that is safe to repeat with the same idempotency key.
    WithKey,
    /// The same for its client. The gateway does not repeat it: its answer holds a secret that is given once, or its
    /// effect ends the token that it came with, and the client would never see the answer.
    ByClient,
    /// A write with rules of its own: never repeated after delivery.
    Never,
}

impl Repeat {
    /// What is known about the effect of a message that was handed over and not answered.
    pub const fn outcome_unanswered(self) -> Outcome {
        match self {
            Self::Safe => Outcome::None,
            Self::WithKey | Self::ByClient | Self::Never => Outcome::Unknown,
        }
    }

    /// Whether a client's idempotency key makes repetitions safe.
    pub const fn takes_key(self) -> bool {
        matches!(self, Self::WithKey | Self::ByClient)
    }
}

/// An HTTP method an operation can be reached with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl Method {
    /// The method as it stands in a request line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Where an operation is reached over HTTP. `{id}` in the path becomes `id` in the message.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path template, in axum's and OpenAPI's common syntax.
    pub path: &'static str,
}

/// A request body: JSON checked against its own published schema, then against [`Request::rules`].
pub trait Request: Serialize + DeserializeOwned + ToSchema + Send + 'static {
    /// Rules between fields, which JSON Schema cannot state. Runs on whatever object arrived, so
    /// that these violations are reported together with the schema's.
    fn rules(_body: &Map<String, Value>) -> Vec<Violation> {
        Vec::new()
    }
}

/// A response body.
pub trait Response: Serialize + DeserializeOwned + ToSchema + Send + 'static {
    /// The strong validator of this representation (RFC 9110 §8.8.3), where it has one.
    fn etag(&self) -> Option<EntityTag> {
        None
    }

    /// The cursor of the page that follows this one, where it is one of several.
    fn next_cursor(&self) -> Option<&str> {
        None
    }
}

/// The body of an operation that answers 204.
#[derive(Debug, Clone, Copy, Serialize, serde::Deserialize, ToSchema)]
pub struct NoContent {}

impl Response for NoContent {}

impl keyed::sealed::SecretFree for NoContent {}

/// One operation: a subject, its rules and its types.
pub trait Operation: Send + Sync + 'static {
    /// The NATS subject, `<service>.<verb>`.
    const SUBJECT: &'static str;
    /// The HTTP route.
    const ROUTE: Route;
    /// One line for the documents.
    const SUMMARY: &'static str;
    /// Who may call.
    const ACCESS: Access;
    /// The longest a caller waits, whatever it asks for.
    const DEADLINE: Duration;
    /// Whether sending twice is safe.
    const REPEAT: Repeat;
    /// The HTTP status of success.
    const STATUS: u16 = 200;
    /// The largest accepted body, in bytes.
    const MAX_BODY: usize = 64 * 1024;
    /// Whether the client's network is sent to the worker, which counts attempts by it.
    const TELLS_CLIENT_NETWORK: bool = false;

    /// What the caller sends.
    type Request: Request;
    /// What success looks like.
    type Response: Response;
    /// Why the domain may refuse. Closed: the failures of an operation read in its type.
    type Error: OperationError;

    /// The path of a newly created resource.
    fn location(_response: &Self::Response) -> Option<String> {
        None
    }
}

/// A worker's side of one operation.
pub trait Handle<O: Operation>: Send + Sync + 'static {
    /// Carries the operation out for `cx.principal()`.
    fn handle(
        &self,
        cx: &Context,
        request: O::Request,
    ) -> impl Future<Output = Result<O::Response, Failure<O::Error>>> + Send;
}

/// An operation as plain data: what the documents, the router and the broker need to know.
#[derive(Debug, Clone)]
pub struct Description {
    /// See [`Operation::SUBJECT`].
    pub subject: &'static str,
    /// See [`Operation::ROUTE`].
    pub route: Route,
    /// See [`Operation::SUMMARY`].
    pub summary: &'static str,
    /// See [`Operation::ACCESS`].
    pub access: Access,
    /// See [`Operation::DEADLINE`].
    pub deadline: Duration,
    /// See [`Operation::REPEAT`].
    pub repeat: Repeat,
    /// See [`Operation::STATUS`].
    pub status: u16,
    /// See [`Operation::MAX_BODY`].
    pub max_body: usize,
    /// The request's schema.
    pub request: schema::NamedSchema,
    /// The response's schema; `None` for 204.
    pub response: Option<schema::NamedSchema>,
    /// The problems the domain may answer with, besides the shared ones.
    pub problems: &'static [ProblemType],
}

impl Description {
    /// Describes `O`.
    pub fn of<O: Operation>() -> Self {
        Self {
            subject: O::SUBJECT,
            route: O::ROUTE,
            summary: O::SUMMARY,
            access: O::ACCESS,
            deadline: O::DEADLINE,
            repeat: O::REPEAT,
            status: O::STATUS,
            max_body: O::MAX_BODY,
            request: schema::NamedSchema::of::<O::Request>(),
            response: (O::STATUS != 204).then(schema::NamedSchema::of::<O::Response>),
            problems: O::Error::PROBLEMS,
        }
    }

    /// The service that answers it: `events` for `events.submit`.
    pub fn service(&self) -> &'static str {
        self.subject.split('.').next().unwrap_or_default()
    }

    /// The subject without its service: `submit` for `events.submit`.
    pub fn verb(&self) -> &'static str {
        self.subject.split_once('.').map_or(self.subject, |(_, verb)| verb)
    }
}

macro_rules! services {
    ($($service:ident),+ $(,)?) => {
        /// Every service there is. What is needed of all of them walks through this table.
        pub const SERVICES: [Service; [$(stringify!($service)),+].len()] = [$($service::SERVICE),+];

        /// Visits every operation of every service.
        pub fn visit(visitor: &mut impl OperationVisitor) {
            $($service::visit(visitor);)+
        }
    };
}

services![auth, events];

/// Every operation of every service.
pub fn descriptions() -> Vec<Description> {
    SERVICES.iter().flat_map(|service| (service.operations)()).collect()
}
