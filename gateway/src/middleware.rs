//! What surrounds every route: ids, the canonical log line, panics, security headers, CORS.

use std::any::Any;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use contract::{CorrelationId, Problem, ProblemType, RequestIds};
use opentelemetry::propagation::Extractor;
use service::Status;
use service::http;
use telemetry::span;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any as AnyValue, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::config::CorsOrigins;
use crate::problem::{ProblemResponse, render};
use crate::{extract, metrics, rate_limit, routes};

/// The gateway's name in log lines and traces.
pub const NAME: &str = "gateway";
/// What a request is accounted under whose client did not wait for the answer; nobody is sent it.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// The longest accepted request target, in bytes.
const MAX_URI: usize = 8 * 1024;

static CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// A client's headers. One that is sent twice counts as not sent.
struct Single<'a>(&'a HeaderMap);

impl Extractor for Single<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.0.get_all(name).iter();
        let first = values.next().and_then(|value| value.to_str().ok());
        if values.next().is_some() { None } else { first }
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// What became of a request beyond the gateway, for its one line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarded {
    /// The subject it was sent to.
    pub(crate) subject: &'static str,
    /// How often it was sent.
    pub(crate) attempts: u32,
    /// Whether its answer was given before.
    pub(crate) replayed: bool,
}

/// Answers what no route does.
pub(crate) async fn unknown_route() -> Response {
    ProblemResponse(Problem::new(ProblemType::NotFound, "there is no such route")).into_response()
}

/// Surrounds `routes` with everything every response needs.
pub(crate) fn surround(routes: Router, cors: CorsLayer, status: Status) -> Router {
    let fixed = |name: HeaderName, value| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    routes
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(judge_target))
        .layer(cors)
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::X_FRAME_OPTIONS, "DENY"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
        .layer(fixed(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .layer(middleware::from_fn(identify))
        .layer(middleware::from_fn_with_state(status, close_while_stopping))
}

/// CORS for these origins. Tokens travel in a header, never in cookies, so no credentials are allowed.
pub(crate) fn cors(origins: &CorsOrigins) -> CorsLayer {
    let origins = match origins {
        CorsOrigins::Any => AllowOrigin::from(AnyValue),
        // An origin is ASCII: each is a header's value.
        CorsOrigins::Listed(origins) => {
            AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
        }
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            CORRELATION_ID.clone(),
            HeaderName::from_static("idempotency-key"),
            extract::PREFER.clone(),
            // A front end that is traced sends these with every request.
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
            HeaderName::from_static("baggage"),
        ])
        .expose_headers([
            CORRELATION_ID.clone(),
            header::ETAG,
            header::LOCATION,
            header::LINK,
            header::RETRY_AFTER,
            routes::IDEMPOTENT_REPLAYED,
            routes::ORIGINAL_CORRELATION_ID,
            routes::PREFERENCE_APPLIED,
            rate_limit::RATE_LIMIT.clone(),
            rate_limit::RATE_LIMIT_POLICY.clone(),
        ])
        .max_age(std::time::Duration::from_secs(600))
}

fn panicked(_panic: Box<dyn Any + Send>) -> Response {
    ProblemResponse(Problem::internal(&"a request handler panicked")).into_response()
}

/// Refuses requests that do not say clearly what they are for: without one valid host (RFC 9112 §3.2), and with a
/// target that only an attack would make that long.
async fn judge_target(request: Request, next: Next) -> Response {
    if !http::has_valid_host(&request) {
        let rule = "the header Host must occur once and name a host";
        return ProblemResponse(Problem::new(ProblemType::MalformedRequest, rule)).into_response();
    }
    if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > MAX_URI) {
        let rule = format!("the request target may have at most {MAX_URI} bytes");
        return ProblemResponse(Problem::new(ProblemType::UriTooLong, rule)).into_response();
    }
    next.run(request).await
}

/// Asks clients to leave while the gateway stops: a connection that is closed by its client cannot lose a
/// request that is on its way.
async fn close_while_stopping(State(status): State<Status>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if status.is_stopping() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Gives the request its ids, echoes them, renders failures, and writes the one line per request.
async fn identify(mut request: Request, next: Next) -> Response {
    let headers = Single(request.headers());
    let correlation_id = headers
        .get(CORRELATION_ID.as_str())
        .and_then(CorrelationId::parse)
        .unwrap_or_else(CorrelationId::mint);
    let method = known_method(request.method());
    // The template, never the path: what clients write into a path is theirs.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("<unmatched>".to_owned(), |path| path.as_str().to_owned());
    let path = shown_path(&route, request.uri().path());
    let span = span::http_request(NAME, &correlation_id, &headers, method, &route, path);
    let ids = RequestIds { correlation_id, trace: span::ids(&span) };
    request.extensions_mut().insert(ids.clone());
    let under_way = UnderWay::begin(method, route, span.clone());
    let answer = async {
        let mut response = render(next.run(request).await, &ids);
        if let Ok(value) = HeaderValue::from_str(ids.correlation_id.as_str()) {
            response.headers_mut().insert(CORRELATION_ID.clone(), value);
        }
        under_way.end(response.status().as_u16(), response.extensions().get().copied());
        response
    };
    answer.instrument(span).await
}

/// The method as a label: a closed set, whatever clients send.
fn known_method(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

/// The path, if what the client has put into the route's places are ids and nothing else.
fn shown_path<'a>(route: &str, path: &'a str) -> Option<&'a str> {
    let (places, segments) = (route.split('/'), path.split('/'));
    let fits = |(place, segment): (&str, &str)| {
        if place.starts_with('{') { Uuid::try_parse(segment).is_ok() } else { place == segment }
    };
    let as_many = places.clone().count() == segments.clone().count();
    (as_many && places.zip(segments).all(fits)).then_some(path)
}

/// A request that is not answered yet. One that is dropped was given up by its client, and is accounted for all
/// the same.
struct UnderWay {
    method: &'static str,
    route: String,
    span: Span,
    begun: Instant,
    ended: bool,
}

impl UnderWay {
    fn begin(method: &'static str, route: String, span: Span) -> Self {
        metrics::http_request_began(method);
        Self { method, route, span, begun: Instant::now(), ended: false }
    }

    fn end(mut self, status: u16, forwarded: Option<Forwarded>) {
        self.account(status, forwarded);
        self.ended = true;
    }

    fn account(&self, status: u16, forwarded: Option<Forwarded>) {
        let Self { method, route, begun, .. } = self;
        let took = begun.elapsed();
        span::http_response(&self.span, status);
        metrics::http_request_ended(method, route, status, took);
        tracing::info!(
            method,
            route,
            status,
            duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            subject = forwarded.map(|forwarded| forwarded.subject),
            attempts = forwarded.map(|forwarded| forwarded.attempts),
            replayed = forwarded.map(|forwarded| forwarded.replayed),
            "{method} {route}"
        );
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.ended {
            self.account(CLIENT_CLOSED_REQUEST, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use contract::failure::ProblemBody;
    use tower::ServiceExt;

    async fn answer(request: axum::http::Request<Body>) -> (Response<()>, ProblemBody) {
        async fn panics() -> &'static str {
            std::panic::panic_any("a secret detail")
        }
        let routes = Router::new().route("/panics", get(panics)).fallback(unknown_route);
        let status = Status::new(&[], &tokio_util::sync::CancellationToken::new());
        let response = surround(routes, cors(&CorsOrigins::Any), status).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (Response::from_parts(parts, ()), serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_with_ids_and_without_details() {
        let request = axum::http::Request::get("/panics")
            .header("host", "test")
            .header("x-correlation-id", "test-123")
            .body(Body::empty());
        let (response, problem) = answer(request.unwrap()).await;
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], PROBLEM);
        assert_eq!(response.headers()["x-correlation-id"], "test-123");
        assert_eq!((problem.correlation_id.as_str(), problem.status), ("test-123", 500));
        assert!(!format!("{problem:?}").contains("secret"));
    }

    #[test]
    fn paths_are_shown_that_hold_nothing_but_ids() {
        let id = "0190a9c6-7b7e-7cc0-a3f1-5c7a52f1c0de";
        let (path, route) = (format!("/events/{id}/submit"), "/events/{id}/submit");
        assert_eq!(shown_path(route, &path), Some(path.as_str()));
        assert_eq!(shown_path("/events", "/events"), Some("/events"));
        for other in ["/events/someone@example.com/submit", "/events//submit", "/events/a", "/events"] {
            assert_eq!(shown_path(route, other), None, "{other}");
        }
        assert_eq!(shown_path("<unmatched>", "/secret"), None);
    }

    const PROBLEM: &str = contract::failure::PROBLEM_JSON;

    #[tokio::test]
    async fn unknown_routes_and_methods_are_problems() {
        let (response, problem) =
            answer(axum::http::Request::get("/nowhere").header("host", "test").body(Body::empty()).unwrap())
                .await;
        assert_eq!((response.status().as_u16(), problem.status), (404, 404));
        let (response, problem) =
            answer(axum::http::Request::put("/panics").header("host", "test").body(Body::empty()).unwrap())
                .await;
        assert_eq!((response.status().as_u16(), problem.status), (405, 405));
        assert_eq!(response.headers()["allow"], "GET,HEAD");
        let long = format!("/{}", "x".repeat(MAX_URI));
        let (response, problem) =
            answer(axum::http::Request::get(long).header("host", "test").body(Body::empty()).unwrap()).await;
        assert_eq!((response.status().as_u16(), problem.status), (414, 414));
    }
}
