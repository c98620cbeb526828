//! The ids of a request, its span, and its one log line.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use contract::{CorrelationId, RequestIds};
use opentelemetry::propagation::Extractor;
use telemetry::span;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::headers::CORRELATION_ID;
use crate::metrics;
use crate::problem::render;

/// The gateway's name in log lines and traces.
pub const NAME: &str = "gateway";
/// The status under which a request is counted whose client did not wait for the answer; it is never sent.
const CLIENT_CLOSED_REQUEST: u16 = 499;

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

/// Gives the request its ids, echoes them, renders failures, and writes the one line per request.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
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
            response.headers_mut().insert(CORRELATION_ID, value);
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
}
