//! Every span that is exported: what it is called, of which kind it is, and what it says.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions; NATS and its key-value buckets are not
//! registered there and appear as `nats` and `nats_kv`. No password, token, address or text of a user is among them.
//! Fields that are `Empty` are recorded later, those of one moment in one call.

use std::fmt::Display;

use contract::{CorrelationId, RequestIds, TraceContext};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{FutureExt, Status, TraceContextExt, WithContext};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::field::{Empty, display};
use tracing::{Dispatch, Span, dispatcher, info_span, record_all};
use tracing_opentelemetry::{OpenTelemetrySpanExt, get_otel_context};

use super::propagators;

/// What a request is found by: in baggage, on every span, in every log line.
pub(super) const CORRELATION_ID: &str = "correlation_id";

/// The target of spans that begin what others have asked for. All others are parts of those.
pub(super) const REQUEST: &str = "telemetry::request";

/// What a context carries besides its span.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The service that works.
    pub(super) service: &'static str,
    /// The request that it works on, if it is one.
    pub(super) correlation_id: Option<CorrelationId>,
    /// A client has sent the context: it may name a trace, and not whether that is recorded.
    pub(super) from_client: bool,
}

/// The context of what runs: the current span's, or else the service's.
pub(super) fn running(dispatch: &Dispatch) -> Context {
    let span = dispatch.current_span();
    span.id().and_then(|id| get_otel_context(id, dispatch)).unwrap_or_else(Context::current)
}

/// Runs what `service` does: what it says outside of requests has that name. That is no span of a trace.
pub fn as_service<F>(service: &'static str, work: F) -> WithContext<F> {
    work.with_context(Context::new().with_value(Scope { service, correlation_id: None, from_client: false }))
}

/// The ids of a span.
pub fn ids(span: &Span) -> TraceContext {
    TraceContext::of(span.context().span().span_context())
}

/// The span of one HTTP request that `service` answers, to this path where that holds ids only. It continues the trace
/// that the client names.
pub fn http_request(
    service: &'static str,
    correlation_id: &CorrelationId,
    client: &dyn Extractor,
    method: &'static str,
    route: &str,
    path: Option<&str>,
) -> Span {
    let scope = Scope { service, correlation_id: Some(correlation_id.clone()), from_client: true };
    let span = info_span!(
        target: REQUEST,
        parent: None,
        "http request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        url.scheme = "http",
        url.path = path,
        http.response.status_code = Empty,
    );
    below(span, extracted(client, scope))
}

/// Says how an HTTP request was answered.
pub fn http_response(span: &Span, status: u16) {
    record_all!(span, http.response.status_code = i64::from(status));
    if status >= 500 {
        fail(span, status);
    }
}

/// The span of one attempt to have a worker answer `subject`.
pub fn request(subject: &'static str, size: usize, attempt: u32) -> Span {
    info_span!(
        "request",
        otel.name = %format_args!("request {subject}"),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "request",
        messaging.operation.type = "send",
        messaging.destination.name = subject,
        messaging.message.body.size = number(size),
        retry.attempt = i64::from(attempt),
    )
}

/// The span of one message that `service`, whose queue group is `group`, works on. Its parent is the sender's.
pub fn process(
    service: &'static str,
    correlation_id: &CorrelationId,
    sender: &dyn Extractor,
    subject: &'static str,
    group: &'static str,
    size: usize,
) -> Span {
    let scope = Scope { service, correlation_id: Some(correlation_id.clone()), from_client: false };
    let parent = extracted(sender, scope);
    let span = info_span!(
        target: REQUEST,
        parent: None,
        "message",
        otel.name = %format_args!("process {subject}"),
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = subject,
        messaging.message.body.size = number(size),
        messaging.consumer.group.name = group,
        messaging.message.conversation_id = correlation_id.as_str(),
        eventboard.reply.status = Empty,
        eventboard.problem = Empty,
        idempotency.replayed = Empty,
        idempotency.original_correlation_id = Empty,
        idempotency.original_trace_id = Empty,
    );
    // One that is not valid, as when none was sent, is left out.
    span.add_link(parent.span().span_context().clone());
    below(span, parent)
}

/// Says how a message was answered, and with which problem. That a request was refused is no failure of who
/// refused it.
pub fn reply(span: &Span, status: u16, problem: Option<&'static str>) {
    record_all!(span, eventboard.reply.status = i64::from(status), eventboard.problem = problem);
    if status >= 500 {
        fail(span, problem.unwrap_or("failed"));
    }
}

/// Says that the answer was given before, to the request `first`.
pub fn replayed(span: &Span, first: &RequestIds) {
    let original = first.trace.to_span_context();
    let trace_id = original.is_valid().then(|| display(first.trace.trace_id));
    record_all!(
        span,
        idempotency.replayed = true,
        idempotency.original_correlation_id = first.correlation_id.as_str(),
        idempotency.original_trace_id = trace_id,
    );
    span.add_link_with_attributes(original, vec![KeyValue::new("eventboard.link", "idempotency.original")]);
}

/// The span of one statement.
pub fn statement(system: &'static str, operation: &'static str, collection: &str, text: &str) -> Span {
    let summary = [operation, collection].join(" ");
    let summary = summary.trim_end();
    info_span!(
        "statement",
        otel.name = summary,
        otel.kind = "client",
        db.system.name = system,
        db.operation.name = operation,
        db.query.summary = summary,
        // Placeholders stand where values are.
        db.query.text = text,
        db.collection.name = (!collection.is_empty()).then_some(collection),
        db.response.returned_rows = Empty,
        db.response.status_code = Empty,
    )
}

/// Says what came of a statement.
pub fn statement_ended(span: &Span, rows: Option<usize>, failure: Option<&str>) {
    record_all!(span, db.response.returned_rows = rows.map(number), db.response.status_code = failure);
    if let Some(code) = failure {
        fail(span, code);
    }
}

/// The span of one request to a key-value bucket; the key is a hash, or names no user.
pub fn key_value(operation: &'static str, bucket: &'static str, key: &str) -> Span {
    info_span!(
        "bucket",
        otel.name = %format_args!("{operation} {bucket}"),
        otel.kind = "client",
        db.system.name = "nats_kv",
        db.namespace = bucket,
        db.operation.name = operation,
        eventboard.kv.key = key,
    )
}

/// The span of work within this process that may outlast what it is part of: that one ends without it.
pub fn detached(name: &'static str) -> Span {
    let span = info_span!(
        parent: None,
        "detached",
        otel.name = name,
        otel.kind = "internal",
        eventboard.queue_wait_us = Empty,
    );
    below(span, dispatcher::get_default(running))
}

/// Says how long something waited for its turn.
pub fn queue_wait(span: &Span, wait: std::time::Duration) {
    record_all!(span, eventboard.queue_wait_us = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
}

/// Says that what the span stands for has failed, and by which word of a closed set. That is too rare for a field.
pub fn fail(span: &Span, error_type: impl Display) {
    span.set_attribute("error.type", error_type.to_string());
    span.set_status(Status::error(""));
}

fn number(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Makes `span`, which was made a moment ago, a part of `parent`.
fn below(span: Span, parent: Context) -> Span {
    let _fails_without_a_bridge = span.set_parent(parent);
    span
}

/// Puts the context of the running request into the headers of a message.
pub fn inject(message: &mut dyn Injector) {
    let context = dispatcher::get_default(running);
    if propagators().trace_context {
        TraceContextPropagator::new().inject_context(&context, message);
    }
    if propagators().baggage
        && let Some(Scope { correlation_id: Some(id), .. }) = context.get()
    {
        // Nothing in it needs to be encoded.
        message.set("baggage", format!("{CORRELATION_ID}={id}"));
    }
}

/// The context that came along, with `scope`. Baggage is left behind: the one thing it holds comes as a header of its
/// own.
fn extracted(headers: &dyn Extractor, scope: Scope) -> Context {
    let context = Context::new().with_value(scope);
    if propagators().trace_context && headers.get("traceparent").is_some_and(is_traceparent) {
        TraceContextPropagator::new().extract_with_context(&context, headers)
    } else {
        context
    }
}

/// Whether the parts of a `traceparent` have the form they must have (W3C Trace Context, section 3.2.2): the propagator
/// takes numbers of any length. It checks the rest.
fn is_traceparent(value: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = value.split('-');
    let whole =
        [2, 32, 16, 2].map(|length| parts.next().is_some_and(|part| part.len() == length && is_hex(part)));
    // A later version may have more behind it.
    whole == [true; 4] && (parts.next().is_none() || !value.starts_with("00"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::start_unsent;
    use std::collections::HashMap;
    use std::sync::Mutex;
    use tracing::Instrument;

    /// The correlation id of what runs, if that is a request.
    fn correlation_id() -> Option<String> {
        let context = dispatcher::get_default(running);
        context.get::<Scope>()?.correlation_id.as_ref().map(ToString::to_string)
    }

    /// The ids of what runs.
    fn running_ids() -> TraceContext {
        TraceContext::of(dispatcher::get_default(running).span().span_context())
    }

    #[test]
    fn a_malformed_traceparent_begins_no_trace() {
        let _started = start_unsent();
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let continued = |traceparent: &str| {
            let headers = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
            let id = CorrelationId::parse("some").unwrap();
            ids(&http_request("gateway", &id, &headers, "GET", "/", None)).trace_id.to_string() == trace
        };
        for good in [format!("00-{trace}-{span}-01"), format!("01-{trace}-{span}-00-more")] {
            assert!(continued(&good), "{good}");
        }
        assert!(!is_traceparent("00-1-1-01"));
        for bad in [
            "00-1-1-01".to_owned(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-1"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}-0g"),
            format!("0-{trace}-{span}-01"),
            format!(" 00-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
        ] {
            assert!(!continued(&bad), "{bad}");
        }
    }

    fn some_request() -> Span {
        http_request("gateway", &CorrelationId::parse("some").unwrap(), &HashMap::new(), "GET", "/", None)
    }

    #[tokio::test]
    async fn a_future_is_polled_and_dropped_in_its_span() {
        struct Dropped<'a>(&'a Mutex<Option<String>>);

        impl Drop for Dropped<'_> {
            fn drop(&mut self) {
                *self.0.lock().unwrap() = correlation_id();
            }
        }

        let _started = start_unsent();
        let seen = Mutex::default();
        let mut future = Box::pin(
            async {
                let _dropped = Dropped(&seen);
                std::future::pending::<()>().await;
            }
            .instrument(some_request()),
        );
        assert!(futures_util::poll!(&mut future).is_pending());
        assert_eq!((seen.lock().unwrap().clone(), correlation_id()), (None, None));
        drop(future);
        assert_eq!((seen.lock().unwrap().as_deref(), correlation_id()), (Some("some"), None));
        assert_eq!(async { correlation_id() }.instrument(some_request()).await.as_deref(), Some("some"));
    }

    #[tokio::test]
    async fn what_is_not_recorded_has_the_ids_of_what_it_is_part_of() {
        let _started = start_unsent();
        let request = some_request();
        assert_ne!(ids(&request), TraceContext::NONE);
        let below = async { async { running_ids() }.instrument(detached("password.verify")).await };
        assert_eq!(below.instrument(request.clone()).await, ids(&request));
        let alone = async { running_ids() }.instrument(detached("password.verify")).await;
        assert_eq!(alone, TraceContext::NONE);
    }

    #[tokio::test]
    async fn a_message_carries_the_ids_of_the_request_it_belongs_to() {
        let _started = start_unsent();
        let mut headers = HashMap::new();
        inject(&mut headers);
        assert_eq!(headers, HashMap::new());
        let request = some_request();
        async { inject(&mut headers) }.instrument(request.clone()).await;
        let TraceContext { trace_id, span_id } = ids(&request);
        assert_eq!(headers["traceparent"], format!("00-{trace_id}-{span_id}-00"));
        assert_eq!(headers["baggage"], "correlation_id=some");
        let (id, group) = (CorrelationId::parse("other").unwrap(), "events");
        let taken = ids(&process("events-worker", &id, &headers, "events.get", group, 2));
        assert!(taken.trace_id == trace_id && taken.span_id != span_id, "{taken:?}");
    }
}
