//! Failures over HTTP: carried as a [`Problem`], rendered once, at the edge, with the request's ids.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use contract::problem::PROBLEM_JSON;
use contract::{Problem, ProblemType, RequestIds};

/// A failure on its way to the edge.
#[derive(Debug, Clone)]
pub(crate) struct ProblemResponse(pub(crate) Problem);

impl From<Problem> for ProblemResponse {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives every failed response its body. What already is a problem, sent by a worker, stays.
pub(crate) fn render(mut response: Response, ids: &RequestIds) -> Response {
    let carried = response.extensions_mut().remove::<ProblemResponse>().map(|failed| failed.0);
    // The router itself answers only this, with the `Allow` header it must keep.
    let missed = (response.status() == StatusCode::METHOD_NOT_ALLOWED)
        .then(|| Problem::new(ProblemType::MethodNotAllowed, "use one of the methods in the header Allow"));
    let problem = carried.or(missed);
    let problem_kind = problem.as_ref().map(|problem| problem.kind);
    if let Some(seconds) = problem.as_ref().and_then(|problem| problem.retry_after) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(problem) = problem {
        let body = problem.body(ids).to_json();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        *response.body_mut() = body.into();
    }
    if problem_kind == Some(ProblemType::UnsupportedContentEncoding) {
        // RFC 9110 §12.5.3: it distinguishes this 415 from one for the media type.
        response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    let further = match response.status() {
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer realm=\"eventboard\"")),
        StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
        _ => None,
    };
    if let Some((name, value)) = further {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
