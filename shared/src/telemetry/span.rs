//! Every span that is exported: what it is called, of which kind it is, and what it says.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions; NATS and its key-value buckets are not
//! registered there and appear as `nats` and `nats_kv`. Nobody's password, token, address or text is among them.

use std::fmt::Display;

use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_semantic_conventions::attribute as key;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::propagators;
use crate::contract::{CorrelationId, RequestIds, TraceContext};

/// The target of the spans that are exported; others only give fields to log lines.
pub(super) const TARGET: &str = "eventboard::span";

/// What a request is found by: in baggage, on every span, in every log line.
pub(super) const CORRELATION_ID: &str = "correlation_id";

/// Whose span it is: on its way to the exporter, which makes it the resource's `service.name`.
pub(super) const SERVICE: &str = "eventboard.service";

/// Which service a context is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service(pub(super) &'static str);

/// Marks a context that a client has sent: it may name a trace, and not whether that is recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromClient;

macro_rules! span {
    ($kind:literal, $name:expr) => {
        tracing::info_span!(target: TARGET, "span", otel.name = $name, otel.kind = $kind)
    };
}

/// The span of one HTTP request that `service` answers. It continues the trace that the client names.
pub fn http_request(
    service: &'static str,
    correlation_id: &CorrelationId,
    client: &dyn Extractor,
    method: &str,
    route: &str,
) -> Span {
    let span = span!("server", format_args!("{method} {route}"));
    let parent = extracted(client).with_value(FromClient);
    begin(&span, parent, service, correlation_id);
    span.set_attribute(key::HTTP_REQUEST_METHOD, method.to_owned());
    span.set_attribute(key::HTTP_ROUTE, route.to_owned());
    span.set_attribute(key::URL_SCHEME, "http");
    span
}

/// Says what an HTTP request asked for, where the path holds ids only.
pub fn url_path(span: &Span, path: &str) {
    span.set_attribute(key::URL_PATH, path.to_owned());
}

/// Says how an HTTP request was answered.
pub fn http_response(span: &Span, status: u16) {
    span.set_attribute(key::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
    if status >= 500 {
        fail(span, status);
    }
}

/// The span of one attempt to have a worker answer `subject`.
pub fn request(subject: &'static str, size: usize, attempt: u32) -> Span {
    if !is_recorded() {
        return Span::none();
    }
    let span = span!("producer", format_args!("request {subject}"));
    message_attributes(&span, subject, size, "request", "send");
    span.set_attribute("retry.attempt", i64::from(attempt));
    span
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
    let span = span!("consumer", format_args!("process {subject}"));
    let parent = extracted(sender);
    span.add_link(parent.span().span_context().clone());
    begin(&span, parent, service, correlation_id);
    message_attributes(&span, subject, size, "process", "process");
    span.set_attribute(key::MESSAGING_CONSUMER_GROUP_NAME, group);
    span.set_attribute(key::MESSAGING_MESSAGE_CONVERSATION_ID, correlation_id.as_str().to_owned());
    span
}

/// Says how a message was answered, and with which problem. That a request was refused is no failure of who
/// refused it.
pub fn reply(span: &Span, status: u16, problem: Option<&'static str>) {
    span.set_attribute("eventboard.reply.status", i64::from(status));
    if let Some(problem) = problem {
        span.set_attribute("eventboard.problem", problem);
    }
    if status >= 500 {
        fail(span, problem.unwrap_or("failed"));
    }
}

/// Says that the answer was given before, to the request `first`.
pub fn replayed(span: &Span, first: &RequestIds) {
    span.set_attribute("idempotency.replayed", true);
    span.set_attribute("idempotency.original_correlation_id", first.correlation_id.as_str().to_owned());
    let original = first.trace.to_span_context();
    if original.is_valid() {
        span.set_attribute("idempotency.original_trace_id", first.trace.trace_id.to_string());
        let why = vec![KeyValue::new("eventboard.link", "idempotency.original")];
        span.add_link_with_attributes(original, why);
    }
}

/// The span of one statement.
pub fn statement(system: &'static str, operation: &'static str, collection: &str, text: &str) -> Span {
    if !is_recorded() {
        return Span::none();
    }
    let summary =
        if collection.is_empty() { operation.to_owned() } else { format!("{operation} {collection}") };
    let span = span!("client", summary.as_str());
    span.set_attribute(key::DB_SYSTEM_NAME, system);
    span.set_attribute(key::DB_OPERATION_NAME, operation);
    span.set_attribute(key::DB_QUERY_SUMMARY, summary);
    // Placeholders stand where values are.
    span.set_attribute(key::DB_QUERY_TEXT, text.to_owned());
    if !collection.is_empty() {
        span.set_attribute(key::DB_COLLECTION_NAME, collection.to_owned());
    }
    span
}

/// Says what came of a statement.
pub fn statement_ended(span: &Span, returned_rows: Option<usize>, failure: Option<&str>) {
    if let Some(rows) = returned_rows {
        span.set_attribute(key::DB_RESPONSE_RETURNED_ROWS, i64::try_from(rows).unwrap_or(i64::MAX));
    }
    if let Some(code) = failure {
        span.set_attribute(key::DB_RESPONSE_STATUS_CODE, code.to_owned());
        fail(span, code);
    }
}

/// The span of one request to a key-value bucket; what is stored under is a hash, or names nobody.
pub fn key_value(operation: &'static str, bucket: &'static str, key: &str) -> Span {
    if !is_recorded() {
        return Span::none();
    }
    let span = span!("client", format_args!("{operation} {bucket}"));
    span.set_attribute(key::DB_SYSTEM_NAME, "nats_kv");
    span.set_attribute(key::DB_NAMESPACE, bucket);
    span.set_attribute(key::DB_OPERATION_NAME, operation);
    span.set_attribute("eventboard.kv.key", key.to_owned());
    span
}

/// The span of work within this process.
pub fn internal(name: &'static str) -> Span {
    if is_recorded() { span!("internal", name) } else { Span::none() }
}

/// The span of work that goes on after the one it is part of has ended. Where nothing is recorded, the latter, for
/// the sake of its ids.
pub fn afterwards(name: &'static str) -> Span {
    let span = internal(name);
    if span.is_none() { Span::current() } else { span }
}

/// Says how long something waited for its turn.
pub fn queue_wait(span: &Span, wait: std::time::Duration) {
    span.set_attribute("eventboard.queue_wait_us", i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
}

/// Says that what the span stands for has failed, and by which word of a closed set.
pub fn fail(span: &Span, error_type: impl Display) {
    span.set_attribute(key::ERROR_TYPE, error_type.to_string());
    span.set_status(Status::error(""));
}

/// The ids of `span`.
pub fn ids(span: &Span) -> TraceContext {
    TraceContext::of(span.context().span().span_context())
}

/// Puts the context of the running request into the headers of a message.
pub fn inject(headers: &mut dyn Injector) {
    Context::map_current(|context| {
        if propagators().trace_context {
            TraceContextPropagator::new().inject_context(context, headers);
        }
        if propagators().baggage {
            BaggagePropagator::new().inject_context(context, headers);
        }
    });
}

/// The context that came along. Baggage is left behind: the one thing it holds comes as a header of its own.
fn extracted(headers: &dyn Extractor) -> Context {
    if propagators().trace_context {
        TraceContextPropagator::new().extract_with_context(&Context::new(), headers)
    } else {
        Context::new()
    }
}

/// Makes `span` the first one of `service` in the trace of `parent`, or of a trace of its own.
fn begin(span: &Span, parent: Context, service: &'static str, correlation_id: &CorrelationId) {
    let entry = KeyValue::new(CORRELATION_ID, correlation_id.as_str().to_owned());
    // Fails where nothing is set up that makes spans.
    let _ = span.set_parent(parent.with_value(Service(service)).with_baggage([entry]));
}

/// Whether the running request is recorded. What belongs to no request has no span: loops in the background ask
/// several times a second.
fn is_recorded() -> bool {
    Context::map_current(|context| context.span().span_context().is_sampled())
}

fn message_attributes(
    span: &Span,
    subject: &'static str,
    size: usize,
    operation: &'static str,
    operation_type: &'static str,
) {
    span.set_attribute(key::MESSAGING_SYSTEM, "nats");
    span.set_attribute(key::MESSAGING_OPERATION_NAME, operation);
    span.set_attribute(key::MESSAGING_OPERATION_TYPE, operation_type);
    span.set_attribute(key::MESSAGING_DESTINATION_NAME, subject);
    span.set_attribute(key::MESSAGING_MESSAGE_BODY_SIZE, i64::try_from(size).unwrap_or(i64::MAX));
}
