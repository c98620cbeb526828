//! The contract: what an operation is, who may call it, and how a worker takes it up.
//!
//! Every operation is declared once, in one file under `auth/` or `events/`, and used by both
//! sides: the gateway routes it, a worker handles it, the documents describe it.

pub mod auth;
pub mod context;
pub mod events;
pub mod failure;
pub mod json;
pub mod schema;
pub mod timestamp;
pub mod trace;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub use context::{Context, CorrelationId, EntityTag, IdempotencyKey, Precondition, Principal};
pub use failure::{Failure, OperationError, Outcome, Problem, ProblemType, Violation};
pub use schema::RequestDecoder;
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
    /// A write with rules of its own: never repeated after delivery.
    Never,
}

impl Repeat {
    /// What is known about the effect of a message that was handed over and not answered.
    pub const fn outcome_unanswered(self) -> Outcome {
        match self {
            Self::Safe => Outcome::None,
            Self::WithKey | Self::Never => Outcome::Unknown,
        }
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
}

/// The body of an operation that answers 204.
#[derive(Debug, Clone, Copy, Serialize, serde::Deserialize, ToSchema)]
pub struct NoContent {}

impl Response for NoContent {}

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

    /// The cursor of the page that follows the one in this reply body.
    fn next_cursor(_reply: &[u8]) -> Option<String> {
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

    /// The subject without its service: `submit` for `events.submit`.
    pub fn verb(&self) -> &'static str {
        self.subject.split_once('.').map_or(self.subject, |(_, verb)| verb)
    }
}

/// A successful reply, ready for the wire.
#[derive(Debug, Clone)]
pub struct Success {
    /// HTTP status.
    pub status: u16,
    /// JSON; empty for 204.
    pub body: Bytes,
    /// The representation's validator.
    pub etag: Option<EntityTag>,
    /// The path of a newly created resource.
    pub location: Option<String>,
}

/// An operation under way, its types erased.
type Invocation = Pin<Box<dyn Future<Output = Result<Success, Problem>> + Send>>;

/// Begins an operation: decodes the payload, checks it and runs the handler.
type Invoke<H> = Box<dyn Fn(Arc<H>, Arc<Context>, Bytes) -> Invocation + Send + Sync>;

/// One operation bound to the handler type `H`, its types erased.
pub struct Endpoint<H> {
    /// The operation.
    pub description: Description,
    invoke: Invoke<H>,
}

impl<H> std::fmt::Debug for Endpoint<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("subject", &self.description.subject).finish_non_exhaustive()
    }
}

impl<H: Send + Sync + 'static> Endpoint<H> {
    /// Binds `O` to its handler.
    pub fn of<O>() -> Self
    where
        O: Operation,
        H: Handle<O>,
    {
        let decoder = Arc::new(RequestDecoder::<O::Request>::new());
        Self {
            description: Description::of::<O>(),
            invoke: Box::new(move |handler, cx, payload| {
                let decoder = Arc::clone(&decoder);
                Box::pin(async move {
                    let request = decoder.decode(&payload)?;
                    let response = handler.handle(&cx, request).await.map_err(Failure::into_problem)?;
                    let body = if O::STATUS == 204 {
                        Bytes::new()
                    } else {
                        Bytes::from(serde_json::to_vec(&response).map_err(|error| Problem::internal(&error))?)
                    };
                    Ok(Success {
                        status: O::STATUS,
                        body,
                        etag: response.etag(),
                        location: O::location(&response),
                    })
                })
            }),
        }
    }

    /// Decodes `payload`, checks it and runs the handler.
    pub fn invoke(&self, handler: Arc<H>, cx: Arc<Context>, payload: Bytes) -> Invocation {
        (self.invoke)(handler, cx, payload)
    }
}

/// Declares a service: its name and every operation it answers.
///
/// Defines, in the calling module, `SERVICE`, `descriptions()` and the trait `$handlers`, which a worker
/// implements by handling each operation. A listed operation without a handler is a compile
/// error that names it.
#[macro_export]
macro_rules! service {
    ($(#[$doc:meta])* $handlers:ident, $name:literal, [$($operation:path),+ $(,)?]) => {
        /// The service's name on the broker, also its queue group.
        pub const SERVICE: &str = $name;

        /// Every operation of the service, in the order of its declaration.
        pub fn descriptions() -> ::std::vec::Vec<$crate::contract::Description> {
            ::std::vec![$($crate::contract::Description::of::<$operation>()),+]
        }

        $(#[$doc])*
        pub trait $handlers: $($crate::contract::Handle<$operation> +)+ Sized {
            /// Every operation bound to this handler.
            fn bind() -> ::std::vec::Vec<$crate::contract::Endpoint<Self>> {
                ::std::vec![$($crate::contract::Endpoint::of::<$operation>()),+]
            }
        }
    };
}

/// Every operation of every service.
pub fn descriptions() -> Vec<Description> {
    let mut all = auth::descriptions();
    all.extend(events::descriptions());
    all
}
