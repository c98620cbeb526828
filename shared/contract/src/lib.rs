//! The contract: what an operation is, who may call it, and how a worker takes it up.
//!
//! Every operation is declared once, in one file under `auth/` or `events/`, and used by both
//! sides: the gateway routes it, a worker handles it, the documents describe it.

pub mod auth;
pub mod context;
pub mod events;
pub mod failure;
pub mod json;
pub mod keyed;
pub mod page;
pub mod schema;
pub mod text;
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

pub use context::{
    ClientNetwork, Context, CorrelationId, EntityTag, IdempotencyKey, Precondition, Principal, RequestIds,
    begin_by,
};
pub use failure::{Failure, OperationError, Outcome, Problem, ProblemType, Violation};
pub use keyed::{
    HandleKeyed, HandleOnce, IdempotentRequest, KeyOrigin, NoReplay, Replayable, SavedResponse,
    SavedResponses,
};
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
    /// Whether the worker is told where the client is, because it counts attempts by that.
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

/// An answer, ready for the wire: a success, or a refusal that is kept and given out again like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON; empty for 204.
    pub body: Bytes,
    /// The representation's validator.
    pub etag: Option<EntityTag>,
    /// The path of a newly created resource.
    pub location: Option<String>,
    /// The cursor of the page that follows.
    pub next_cursor: Option<String>,
    /// The request that was first given this answer, when that was another one.
    pub first: Option<RequestIds>,
}

impl Answer {
    /// The answer of `O` that consists of `response`.
    ///
    /// # Errors
    /// [`ProblemType::Internal`] for a response that cannot be serialised.
    pub fn of<O: Operation>(response: &O::Response) -> Result<Self, Problem> {
        let body = if O::STATUS == 204 {
            Bytes::new()
        } else {
            Bytes::from(serde_json::to_vec(response).map_err(|error| Problem::internal(&error))?)
        };
        Ok(Self {
            status: O::STATUS,
            body,
            etag: response.etag(),
            location: O::location(response),
            next_cursor: response.next_cursor().map(str::to_owned),
            first: None,
        })
    }

    /// The refusal `problem` of the request `cx`.
    pub fn refusal(problem: &Problem, cx: &Context) -> Self {
        Self {
            status: problem.kind.status(),
            body: problem.body(&cx.ids).to_json().into(),
            etag: None,
            location: None,
            next_cursor: None,
            first: None,
        }
    }
}

/// A future without its type.
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a request of the type `R`.
type RunTyped<H, R> = fn(Arc<H>, Arc<Context>, R) -> Pending<Result<Answer, Problem>>;

/// Runs a decoded operation.
type Run<H> = Box<dyn FnOnce(Arc<H>, Arc<Context>) -> Pending<Result<Answer, Problem>> + Send>;

/// Looks an answer up.
type Kept<H> =
    Box<dyn Fn(Arc<H>, IdempotentRequest) -> Pending<Result<Option<SavedResponse>, Problem>> + Send + Sync>;

/// Decodes and checks a payload.
type Decode<H> = Box<dyn Fn(&[u8]) -> Result<Decoded<H>, Problem> + Send + Sync>;

/// One operation bound to the handler type `H`, its types erased.
pub struct Endpoint<H> {
    /// The operation.
    pub description: Description,
    decode: Decode<H>,
    kept: Option<Kept<H>>,
}

/// A request that keeps every rule of its schema.
pub struct Decoded<H> {
    /// The request as JSON.
    pub body: Value,
    run: Run<H>,
}

impl<H> std::fmt::Debug for Decoded<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoded").finish_non_exhaustive()
    }
}

impl<H> Decoded<H> {
    /// Runs the handler.
    pub fn run(self, handler: Arc<H>, cx: Arc<Context>) -> Pending<Result<Answer, Problem>> {
        (self.run)(handler, cx)
    }
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
        Self::bind::<O>(None, |handler, cx, request| {
            Box::pin(async move {
                let response = handler.handle(&cx, request).await.map_err(Failure::into_problem)?;
                Answer::of::<O>(&response)
            })
        })
    }

    /// Binds the keyed operation `O` to its handler.
    pub fn keyed<O>() -> Self
    where
        O: Operation<Response: Replayable>,
        H: HandleKeyed<O>,
    {
        let kept: Kept<H> = Box::new(|handler, write| {
            Box::pin(async move { handler.find_saved(&write).await.map_err(Failure::into_problem) })
        });
        Self::bind::<O>(Some(kept), |handler, cx, request| {
            Box::pin(async move { handler.handle(&cx, request).await.map_err(Failure::into_problem) })
        })
    }

    /// Binds an operation that is done once per key to its handler, which looks up its answers by itself.
    pub fn once<O>() -> Self
    where
        O: Operation,
        H: HandleOnce<O>,
    {
        Self::bind::<O>(None, |handler, cx, request| {
            Box::pin(async move { handler.handle(&cx, request).await.map_err(Failure::into_problem) })
        })
    }

    fn bind<O: Operation>(kept: Option<Kept<H>>, run: RunTyped<H, O::Request>) -> Self {
        let decoder = RequestDecoder::<O::Request>::new();
        Self {
            description: Description::of::<O>(),
            decode: Box::new(move |payload| {
                let (body, request) = decoder.decode(payload)?;
                Ok(Decoded { body, run: Box::new(move |handler, cx| run(handler, cx, request)) })
            }),
            kept,
        }
    }

    /// Decodes `payload` and checks it.
    ///
    /// # Errors
    /// [`ProblemType::MalformedRequest`] and [`ProblemType::ValidationFailed`].
    pub fn decode(&self, payload: &[u8]) -> Result<Decoded<H>, Problem> {
        (self.decode)(payload)
    }

    /// The answer kept for `write`; `None` also when the operation keeps none.
    ///
    /// # Errors
    /// [`ProblemType::Unavailable`].
    pub fn find_saved(
        &self,
        handler: Arc<H>,
        write: IdempotentRequest,
    ) -> Pending<Result<Option<SavedResponse>, Problem>> {
        match &self.kept {
            Some(kept) => kept(handler, write),
            None => Box::pin(std::future::ready(Ok(None))),
        }
    }
}

/// Declares a service: its name and every operation it answers.
///
/// Defines, in the calling module, `SERVICE`, `descriptions()` and the trait `$handlers`, which a worker
/// implements by handling each operation. A listed operation without a handler is a compile
/// error that names it. Keyed operations, whose answers are kept, stand in a list of their own.
#[macro_export]
macro_rules! service {
    (
        $(#[$doc:meta])* $handlers:ident, $name:literal, admin port $admin_port:literal,
        [$($operation:path),+ $(,)?] $(, keyed [$($keyed:path),+ $(,)?])? $(, once [$($once:path),+ $(,)?])?
    ) => {
        /// The service.
        pub const SERVICE: $crate::Service = $crate::Service {
            name: $name,
            worker: ::std::concat!($name, "-worker"),
            admin_port: $admin_port,
            operations: descriptions,
        };

        /// Every operation of the service, in the order of its declaration.
        pub fn descriptions() -> ::std::vec::Vec<$crate::Description> {
            ::std::vec![
                $($crate::Description::of::<$operation>(),)+
                $($($crate::Description::of::<$keyed>()),+)?
                $($($crate::Description::of::<$once>()),+)?
            ]
        }

        /// Visits every operation of the service, in the order of its declaration.
        pub fn visit(visitor: &mut impl $crate::OperationVisitor) {
            $(visitor.visit::<$operation>();)+
            $($(visitor.visit::<$keyed>();)+)?
            $($(visitor.visit::<$once>();)+)?
        }

        $(#[$doc])*
        pub trait $handlers:
            $($crate::Handle<$operation> +)+ $($($crate::HandleKeyed<$keyed> +)+)?
            $($($crate::HandleOnce<$once> +)+)? Sized
        {
            /// Every operation bound to this handler.
            fn bind() -> ::std::vec::Vec<$crate::Endpoint<Self>> {
                ::std::vec![
                    $($crate::Endpoint::of::<$operation>(),)+
                    $($($crate::Endpoint::keyed::<$keyed>()),+)?
                    $($($crate::Endpoint::once::<$once>()),+)?
                ]
            }
        }
    };
}

/// A service on the broker, which a worker answers.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Its name on the broker, its queue group, and what each of its subjects begins with.
    pub name: &'static str,
    /// The worker's name, in log lines and traces.
    pub worker: &'static str,
    /// The worker's usual admin port.
    pub admin_port: u16,
    /// Its operations.
    pub operations: fn() -> Vec<Description>,
}

/// Something that is made for every operation, such as a route.
pub trait OperationVisitor {
    /// Makes it for `O`.
    fn visit<O: Operation>(&mut self);
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
