//! What surrounds every route: ids and the access log, panics, security headers, CORS.

mod access_log;
pub(crate) mod cors;

use std::any::Any;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use contract::{Problem, ProblemType};
use service::Status;
use service::http;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use tower_http::set_header::SetResponseHeaderLayer;

pub(crate) use access_log::Forwarded;
pub use access_log::NAME;

use crate::problem::ProblemResponse;

/// The longest accepted request target, in bytes.
const MAX_URI: usize = 8 * 1024;

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
        .layer(middleware::from_fn(access_log::identify))
        .layer(middleware::from_fn_with_state(status, close_while_stopping))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CorsOrigins;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use contract::problem::ProblemBody;
    use tower::ServiceExt;

    async fn answer(request: axum::http::Request<Body>) -> (Response<()>, ProblemBody) {
        async fn panics() -> &'static str {
            std::panic::panic_any("a secret detail")
        }
        let routes = Router::new().route("/panics", get(panics)).fallback(unknown_route);
        let status = Status::new(&[], &tokio_util::sync::CancellationToken::new());
        let response =
            surround(routes, cors::cors(&CorsOrigins::Any), status).oneshot(request).await.unwrap();
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

    const PROBLEM: &str = contract::problem::PROBLEM_JSON;

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
