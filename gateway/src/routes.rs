//! One generic handler for every operation: an HTTP request becomes one message, its reply the response.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use contract::failure::PROBLEM_JSON;
use contract::{
    Access, Description, IdempotencyKey, KeyOrigin, Method, Operation, OperationVisitor, Problem,
    ProblemType, Repeat, RequestDecoder, RequestIds, next_cursor,
};
use messaging::{Call, Reply};
use tokio::time::Instant;

use crate::extract;
use crate::headers::{IDEMPOTENT_REPLAYED, ORIGINAL_CORRELATION_ID, PREFERENCE_APPLIED};
use crate::middleware::Forwarded;
use crate::problem::ProblemResponse;
use crate::rate_limit::RateLimitHeaders;
use crate::state::AppState;

/// What a client is told whose token was refused (RFC 6750 §3).
const INVALID_TOKEN: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"eventboard\", error=\"invalid_token\"");

/// A worker has refused the token.
#[derive(Clone, Copy)]
struct TokenRefused;

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
                        params: Result<RawPathParams, axum::extract::rejection::RawPathParamsRejection>,
                        request: Request| {
        let (decoder, description) = (Arc::clone(&decoder), Arc::clone(&description));
        async move {
            // A path that is no UTF-8 names nothing.
            let params = params.map_err(|_| Problem::new(ProblemType::NotFound, "there is no such route"))?;
            let id = params.iter().find(|(name, _)| *name == "id").map(|(_, value)| value.to_owned());
            let mut told = Told::default();
            let answer = forward::<O>(&gateway, &decoder, &description, ids, id, request, &mut told).await;
            let refuses_token =
                answer.as_ref().is_ok_and(|response| response.extensions().get::<TokenRefused>().is_some())
                    || answer.as_ref().is_err_and(|problem| problem.kind == ProblemType::Unauthenticated);
            let mut response = answer.map_err(ProblemResponse).into_response();
            if told.token && refuses_token {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, INVALID_TOKEN);
            }
            if let Some(quoted) = told.quota {
                quoted.tell(response.headers_mut());
            }
            if let Some(attempts) = told.attempts {
                let replayed = response.headers().contains_key(IDEMPOTENT_REPLAYED);
                response.extensions_mut().insert(Forwarded { subject: O::SUBJECT, attempts, replayed });
            }
            Ok::<_, ProblemResponse>(response)
        }
    };
    Router::new().route(O::ROUTE.path, on(filter, handler))
}

/// What is told of a request however it ends.
#[derive(Default)]
struct Told {
    /// What is left of its user's requests.
    quota: Option<RateLimitHeaders>,
    /// How often it was sent to a worker.
    attempts: Option<u32>,
    /// Whether it came with a token.
    token: bool,
}

async fn forward<O: Operation>(
    gateway: &AppState,
    decoder: &RequestDecoder<O::Request>,
    description: &Description,
    ids: RequestIds,
    id: Option<String>,
    request: Request,
    told: &mut Told,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    told.token = O::ACCESS != Access::Public && parts.headers.contains_key(header::AUTHORIZATION);
    let caller = extract::authorization::<O>(&parts.headers, &gateway.verifier, gateway.hold_until).await?;
    if let Some((_, user)) = &caller {
        let (quoted, verdict) = gateway.users.count(user);
        told.quota = quoted;
        verdict.inspect_err(|_| gateway.upstream.metrics().rejected("gateway", "rate_limit_user"))?;
    }
    extract::accepts_json(&parts.headers)?;
    let value = extract::request::<O>(decoder, &parts, body, id).await?;
    let wait = extract::wait(&parts.headers).filter(|wait| *wait < O::DEADLINE);
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
    let payload = Bytes::from(serde_json::to_vec(&value).map_err(|error| Problem::internal(&error))?);
    let (outcome, attempts) = gateway.upstream.call(description, &call, payload).await;
    told.attempts = Some(attempts);
    let reply = outcome?;
    let next_page = (O::PAGED && reply.status == 200).then(|| next_cursor(&reply.body)).flatten();
    let link =
        next_page.map(|cursor| next_link(parts.uri.path(), parts.uri.query().unwrap_or_default(), &cursor));
    let mut response = respond(reply, O::ACCESS, O::SUBJECT, link);
    if let Some(Ok(applied)) = wait.map(|wait| HeaderValue::try_from(format!("wait={}", wait.as_secs()))) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
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
    let kept =
        form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "cursor" && name != "page");
    next.extend_pairs(kept).append_pair("cursor", cursor);
    format!("<{path}?{}>; rel=\"next\"", next.finish())
}

fn respond(reply: Reply, access: Access, subject: &str, link: Option<String>) -> Response {
    let Ok(status) = StatusCode::from_u16(reply.status) else {
        return ProblemResponse(Problem::new(
            ProblemType::MalformedReply,
            "the worker's answer is incomplete",
        ))
        .into_response();
    };
    let has_body = !reply.body.is_empty();
    let refuses_token = reply.status == 401 && reply.is_problem(ProblemType::Unauthenticated);
    let mut response = (status, Body::from(reply.body)).into_response();
    if refuses_token {
        response.extensions_mut().insert(TokenRefused);
    }
    let mut set = |name: HeaderName, value: Option<&str>| {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            response.headers_mut().insert(name, value);
        }
    };
    let failed = status.is_client_error() || status.is_server_error();
    set(header::CONTENT_TYPE, has_body.then_some(if failed { PROBLEM_JSON } else { "application/json" }));
    // Answers with tokens in them must not be kept by anybody.
    let private = access != Access::Public && !subject.starts_with("auth.");
    set(header::CACHE_CONTROL, Some(if private { "private, no-cache" } else { "no-store" }));
    set(header::ETAG, reply.etag.as_deref());
    set(header::LOCATION, reply.location.as_deref());
    set(header::LINK, link.as_deref());
    set(header::RETRY_AFTER, reply.retry_after.map(|seconds| seconds.to_string()).as_deref());
    set(IDEMPOTENT_REPLAYED, reply.first.as_ref().map(|_| "true"));
    set(ORIGINAL_CORRELATION_ID, reply.first.as_deref());
    response
}
