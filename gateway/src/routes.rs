//! One generic handler for every operation: an HTTP request becomes one message, its reply the response.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use contract::auth::UserId;
use contract::problem::PROBLEM_JSON;
use contract::{
    Access, Description, IdempotencyKey, KeyOrigin, Method, Operation, OperationVisitor, Problem,
    ProblemType, Repeat, RequestDecoder, RequestIds,
};
use messaging::{Call, Reply};
use tokio::time::Instant;

use crate::extract;
use crate::headers::{IDEMPOTENT_REPLAYED, ORIGINAL_CORRELATION_ID, PREFERENCE_APPLIED};
use crate::middleware::Forwarded;
use crate::problem::ProblemResponse;
use crate::rate_limit::RateLimitHeaders;
use crate::state::AppState;

/// The challenge to a client whose token was refused (RFC 6750 §3).
const INVALID_TOKEN: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"eventboard\", error=\"invalid_token\"");

/// The route of every operation.
pub(crate) fn routes() -> Router<Arc<AppState>> {
    let mut routes = Routes(Router::new());
    contract::visit(&mut routes);
    routes.0
}

struct Routes(Router<Arc<AppState>>);

impl OperationVisitor for Routes {
    fn visit<O: Operation>(&mut self) {
        self.0 = std::mem::take(&mut self.0).merge(operation::<O>());
    }
}

/// The route of one operation.
fn operation<O: Operation>() -> Router<Arc<AppState>> {
    let filter = match O::ROUTE.method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    };
    let (decoder, description) =
        (Arc::new(RequestDecoder::<O::Request>::new()), Arc::new(Description::of::<O>()));
    let handler = move |State(gateway): State<Arc<AppState>>,
                        Extension(ids): Extension<RequestIds>,
                        params: Result<RawPathParams, RawPathParamsRejection>,
                        request: Request| {
        let (decoder, description) = (Arc::clone(&decoder), Arc::clone(&description));
        async move {
            let Ok(params) = params else {
                // A path that is no UTF-8 names nothing.
                return ProblemResponse(Problem::new(ProblemType::NotFound, "there is no such route"))
                    .into_response();
            };
            let id = params.iter().find(|(name, _)| *name == "id").map(|(_, value)| value.to_owned());
            let route = Forward { gateway: &gateway, decoder: &decoder, description: &description };
            route.handle::<O>(ids, id, request).await
        }
    };
    Router::new().route(O::ROUTE.path, on(filter, handler))
}

/// Who asks: the `Authorization` value to forward, and whose it is.
type Caller = Option<(String, UserId)>;

/// What turns a request of one operation into a message.
struct Forward<'a, R: contract::Request> {
    gateway: &'a AppState,
    decoder: &'a RequestDecoder<R>,
    description: &'a Description,
}

impl<R: contract::Request> Forward<'_, R> {
    async fn handle<O>(&self, ids: RequestIds, id: Option<String>, request: Request) -> Response
    where
        O: Operation<Request = R>,
    {
        let (parts, body) = request.into_parts();
        let has_token = O::ACCESS != Access::Public && parts.headers.contains_key(header::AUTHORIZATION);
        let wait = extract::wait(&parts.headers).filter(|wait| *wait < O::DEADLINE);
        let (caller, quota) = self.admit::<O>(&parts.headers).await;
        let message = async { self.message::<O>(ids, id, &parts, body, wait, caller?).await };
        let (reply, attempts) = match message.await {
            Ok((call, payload)) => {
                let exchange = self.gateway.upstream.call(self.description, &call, payload).await;
                (exchange.reply, Some(exchange.attempts))
            }
            Err(problem) => (Err(problem), None),
        };
        let is_unauthenticated = match &reply {
            Ok(reply) => reply.status == 401 && reply.is_problem(ProblemType::Unauthenticated),
            Err(problem) => problem.kind == ProblemType::Unauthenticated,
        };
        let replayed = reply.as_ref().is_ok_and(|reply| reply.first.is_some());
        let mut response = match reply {
            Ok(reply) => respond::<O>(reply, &parts.uri, wait),
            Err(problem) => ProblemResponse(problem).into_response(),
        };
        if has_token && is_unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, INVALID_TOKEN);
        }
        if let Some(quota) = quota {
            quota.append_to(response.headers_mut());
        }
        if let Some(attempts) = attempts {
            response.extensions_mut().insert(Forwarded { subject: O::SUBJECT, attempts, replayed });
        }
        response
    }

    /// Verifies the caller, and counts the request for the user.
    async fn admit<O: Operation>(
        &self,
        headers: &HeaderMap,
    ) -> (Result<Caller, Problem>, Option<RateLimitHeaders>) {
        let gateway = self.gateway;
        let caller = extract::authorization::<O>(headers, &gateway.verifier, gateway.hold_until).await;
        let Ok(Some((_, user))) = &caller else { return (caller, None) };
        let (quota, verdict) = gateway.users.count(user);
        if let Err(problem) = verdict {
            gateway.upstream.metrics().rejected("gateway", "rate_limit_user");
            return (Err(problem), quota);
        }
        (caller, quota)
    }

    /// The message that is sent for a request.
    async fn message<O: Operation<Request = R>>(
        &self,
        ids: RequestIds,
        id: Option<String>,
        parts: &Parts,
        body: Body,
        wait: Option<Duration>,
        caller: Caller,
    ) -> Result<(Call, Bytes), Problem> {
        extract::accepts_json(&parts.headers)?;
        let value = extract::request::<O>(self.decoder, parts, body, id).await?;
        let call = Call {
            correlation_id: ids.correlation_id,
            // From here on: a slow body has limits of its own and does not shorten the worker's time.
            deadline: Instant::now() + wait.unwrap_or(O::DEADLINE),
            authorization: caller.map(|(authorization, _)| authorization),
            idempotency_key: name_write(O::REPEAT, extract::idempotency_key(&parts.headers)?),
            if_match: extract::precondition(&parts.headers, &header::IF_MATCH)?,
            if_none_match: extract::precondition(&parts.headers, &header::IF_NONE_MATCH)?,
            client_network: parts.extensions.get().copied().filter(|_| O::TELLS_CLIENT_NETWORK),
        };
        let payload = serde_json::to_vec(&value).map_err(|error| Problem::internal(&error))?;
        Ok((call, payload.into()))
    }
}

/// The name of a write: the client's, or one of this request's own, which makes repeating it safe.
fn name_write(repeat: Repeat, given: Option<IdempotencyKey>) -> Option<(IdempotencyKey, KeyOrigin)> {
    match (given, repeat) {
        (Some(key), _) => Some((key, KeyOrigin::Client)),
        (None, Repeat::WithKey) => Some((IdempotencyKey::mint(), KeyOrigin::Gateway)),
        (None, Repeat::Safe | Repeat::ByClient | Repeat::Never) => None,
    }
}

/// `Link: …; rel="next"` (RFC 8288): the same query, continued at `cursor`.
fn next_link(path: &str, query: &str, cursor: &str) -> String {
    let mut next = form_urlencoded::Serializer::new(String::new());
    let others =
        form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "cursor" && name != "page");
    next.extend_pairs(others).append_pair("cursor", cursor);
    format!("<{path}?{}>; rel=\"next\"", next.finish())
}

/// The response that a worker's reply becomes.
fn respond<O: Operation>(reply: Reply, uri: &Uri, wait: Option<Duration>) -> Response {
    let Ok(status) = StatusCode::from_u16(reply.status) else {
        let why = "the worker's answer is incomplete";
        return ProblemResponse(Problem::new(ProblemType::MalformedReply, why)).into_response();
    };
    let has_body = !reply.body.is_empty();
    let link =
        reply.next_cursor.map(|cursor| next_link(uri.path(), uri.query().unwrap_or_default(), &cursor));
    let mut response = (status, Body::from(reply.body)).into_response();
    let mut set = |name: HeaderName, value: Option<&str>| {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            response.headers_mut().insert(name, value);
        }
    };
    let failed = status.is_client_error() || status.is_server_error();
    set(header::CONTENT_TYPE, has_body.then_some(if failed { PROBLEM_JSON } else { "application/json" }));
    // Responses with tokens in them must not be cached.
    let private = O::ACCESS != Access::Public && !O::SUBJECT.starts_with("auth.");
    set(header::CACHE_CONTROL, Some(if private { "private, no-cache" } else { "no-store" }));
    set(header::ETAG, reply.etag.as_deref());
    set(header::LOCATION, reply.location.as_deref());
    set(header::LINK, link.as_deref());
    set(header::RETRY_AFTER, reply.retry_after.map(|seconds| seconds.to_string()).as_deref());
    set(IDEMPOTENT_REPLAYED, reply.first.as_ref().map(|_| "true"));
    set(ORIGINAL_CORRELATION_ID, reply.first.as_deref());
    set(PREFERENCE_APPLIED, wait.map(|wait| format!("wait={}", wait.as_secs())).as_deref());
    response
}
