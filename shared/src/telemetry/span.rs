//! Every span that is exported: what it is called, of which kind it is, and what it says.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions; NATS and its key-value buckets are not
//! registered there and appear as `nats` and `nats_kv`. Nobody's password, token, address or text is among them.

use std::borrow::Cow;
use std::fmt::Display;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{self, Poll};

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanKind, SpanRef, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use opentelemetry_semantic_conventions::attribute as key;
use pin_project_lite::pin_project;

use super::{export, propagators};
use crate::contract::{CorrelationId, RequestIds, TraceContext};
use crate::messaging::headers;

/// What a request is found by: in baggage, on every span, in every log line.
pub(super) const CORRELATION_ID: &str = "correlation_id";

/// Whose span it is: on its way to the exporter, which makes it the resource's `service.name`.
pub(super) const SERVICE: &str = "eventboard.service";

/// As many attributes as most spans have at their end.
const ATTRIBUTES: usize = 12;

/// Makes the spans of this process.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Has `provider` make the spans of this process from now on, unless another one does already.
pub(super) fn made_by(provider: &SdkTracerProvider) {
    let _ = TRACER.set(tracer_of(provider));
}

/// Where nothing was started, as in a test, spans have ids and nothing else.
fn tracer() -> &'static SdkTracer {
    TRACER.get_or_init(|| tracer_of(&export::unsent()))
}

fn tracer_of(provider: &SdkTracerProvider) -> SdkTracer {
    provider.tracer("eventboard")
}

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

/// A span, with the context in which runs what it stands for. It ends with its last clone.
#[derive(Debug, Clone)]
pub struct Span(Context);

impl Span {
    /// The one that runs.
    pub fn current() -> Self {
        Self(Context::current())
    }

    /// Begins one below `parent`; its attributes are asked for if it is recorded.
    fn begin<A>(
        parent: &Context,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        links: Vec<Link>,
        attributes: impl FnOnce() -> A,
    ) -> Self
    where
        A: IntoIterator<Item = KeyValue>,
    {
        // With room for what is said later, too: growing step by step is a good part of what a span costs.
        let room = Vec::with_capacity(ATTRIBUTES);
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_links(links).with_attributes(room);
        let mut span = tracer().build_with_context(builder, parent);
        if span.is_recording() {
            // The first ones: there may be a limit to how many are kept.
            if let Some(scope) = parent.get::<Scope>() {
                span.set_attribute(KeyValue::new(SERVICE, scope.service));
                let id = scope.correlation_id.as_ref();
                span.set_attributes(id.map(|id| KeyValue::new(CORRELATION_ID, id.shared())));
            }
            span.set_attributes(attributes());
        }
        Self(parent.with_span(span))
    }

    /// Begins one below the one that runs. What belongs to no recorded request has no span, and is part of what runs:
    /// loops in the background ask several times a second.
    fn below_current<A>(
        kind: SpanKind,
        name: impl FnOnce() -> Cow<'static, str>,
        attributes: impl FnOnce() -> A,
    ) -> Self
    where
        A: IntoIterator<Item = KeyValue>,
    {
        let parent = Context::current();
        if parent.span().span_context().is_sampled() {
            Self::begin(&parent, kind, name(), Vec::new(), attributes)
        } else {
            Self(parent)
        }
    }

    /// Its ids.
    pub fn ids(&self) -> TraceContext {
        TraceContext::of(self.span().span_context())
    }

    fn span(&self) -> SpanRef<'_> {
        self.0.span()
    }
}

pin_project! {
    /// A future that runs in a span.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are polled"]
    pub struct Spanned<F> {
        #[pin]
        // Taken out where it ends, so that it is dropped in the span, too.
        future: Option<F>,
        span: Span,
    }

    impl<F> PinnedDrop for Spanned<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                let _attached = this.span.0.clone().attach();
                this.future.set(None);
            }
        }
    }
}

impl<F: Future> Future for Spanned<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, waker: &mut task::Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let _attached = this.span.0.clone().attach();
        // Who polls it after its end waits for ever.
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = future.poll(waker);
        if polled.is_ready() {
            this.future.set(None);
        }
        polled
    }
}

/// Runs futures in spans, to which belongs whatever they say, also when they are dropped.
pub trait InSpan: Future + Sized {
    /// In this one.
    fn in_span(self, span: Span) -> Spanned<Self> {
        Spanned { future: Some(self), span }
    }

    /// In the one that runs now.
    fn in_current_span(self) -> Spanned<Self> {
        self.in_span(Span::current())
    }
}

impl<F: Future> InSpan for F {}

/// No span of a trace: what runs in it says that it is `service`.
pub fn service(service: &'static str) -> Span {
    Span(Context::new().with_value(Scope { service, correlation_id: None, from_client: false }))
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
    let name = format!("{method} {route}");
    Span::begin(&extracted(client, scope), SpanKind::Server, name, Vec::new(), || {
        let path = path.map(|path| KeyValue::new(key::URL_PATH, path.to_owned()));
        [
            KeyValue::new(key::HTTP_REQUEST_METHOD, method),
            KeyValue::new(key::HTTP_ROUTE, route.to_owned()),
            KeyValue::new(key::URL_SCHEME, "http"),
        ]
        .into_iter()
        .chain(path)
    })
}

/// Says how an HTTP request was answered.
pub fn http_response(span: &Span, status: u16) {
    set(span, key::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
    if status >= 500 {
        fail(span, status);
    }
}

/// The span of one attempt to have a worker answer `subject`.
pub fn request(subject: &'static str, size: usize, attempt: u32) -> Span {
    Span::below_current(
        SpanKind::Producer,
        || format!("request {subject}").into(),
        || {
            let attempt = KeyValue::new("retry.attempt", i64::from(attempt));
            message_attributes(subject, size, "request", "send").into_iter().chain([attempt])
        },
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
    let sent = parent.span().span_context().clone();
    // One that is not valid, as where nobody has sent any, is left out.
    let links = vec![Link::with_context(sent)];
    Span::begin(&parent, SpanKind::Consumer, format!("process {subject}"), links, || {
        message_attributes(subject, size, "process", "process").into_iter().chain([
            KeyValue::new(key::MESSAGING_CONSUMER_GROUP_NAME, group),
            KeyValue::new(key::MESSAGING_MESSAGE_CONVERSATION_ID, correlation_id.shared()),
        ])
    })
}

/// Says how a message was answered, and with which problem. That a request was refused is no failure of who
/// refused it.
pub fn reply(span: &Span, status: u16, problem: Option<&'static str>) {
    set(span, "eventboard.reply.status", i64::from(status));
    if let Some(problem) = problem {
        set(span, "eventboard.problem", problem);
    }
    if status >= 500 {
        fail(span, problem.unwrap_or("failed"));
    }
}

/// Says that the answer was given before, to the request `first`.
pub fn replayed(span: &Span, first: &RequestIds) {
    set(span, "idempotency.replayed", true);
    set(span, "idempotency.original_correlation_id", first.correlation_id.shared());
    let original = first.trace.to_span_context();
    if original.is_valid() {
        set(span, "idempotency.original_trace_id", first.trace.trace_id.to_string());
        span.span().add_link(original, vec![KeyValue::new("eventboard.link", "idempotency.original")]);
    }
}

/// The span of one statement.
pub fn statement(system: &'static str, operation: &'static str, collection: &str, text: &str) -> Span {
    let summary = || {
        if collection.is_empty() { operation.to_owned() } else { format!("{operation} {collection}") }
    };
    Span::below_current(
        SpanKind::Client,
        || summary().into(),
        || {
            let collection = (!collection.is_empty())
                .then(|| KeyValue::new(key::DB_COLLECTION_NAME, collection.to_owned()));
            [
                KeyValue::new(key::DB_SYSTEM_NAME, system),
                KeyValue::new(key::DB_OPERATION_NAME, operation),
                KeyValue::new(key::DB_QUERY_SUMMARY, summary()),
                // Placeholders stand where values are.
                KeyValue::new(key::DB_QUERY_TEXT, text.to_owned()),
            ]
            .into_iter()
            .chain(collection)
        },
    )
}

/// Says what came of a statement.
pub fn statement_ended(span: &Span, returned_rows: Option<usize>, failure: Option<&str>) {
    if let Some(rows) = returned_rows {
        set(span, key::DB_RESPONSE_RETURNED_ROWS, i64::try_from(rows).unwrap_or(i64::MAX));
    }
    if let Some(code) = failure {
        set(span, key::DB_RESPONSE_STATUS_CODE, code.to_owned());
        fail(span, code);
    }
}

/// The span of one request to a key-value bucket; what is stored under is a hash, or names nobody.
pub fn key_value(operation: &'static str, bucket: &'static str, key: &str) -> Span {
    Span::below_current(
        SpanKind::Client,
        || format!("{operation} {bucket}").into(),
        || {
            [
                KeyValue::new(key::DB_SYSTEM_NAME, "nats_kv"),
                KeyValue::new(key::DB_NAMESPACE, bucket),
                KeyValue::new(key::DB_OPERATION_NAME, operation),
                KeyValue::new("eventboard.kv.key", key.to_owned()),
            ]
        },
    )
}

/// The span of work within this process.
pub fn internal(name: &'static str) -> Span {
    Span::below_current(SpanKind::Internal, || name.into(), || [])
}

/// Says how long something waited for its turn.
pub fn queue_wait(span: &Span, wait: std::time::Duration) {
    set(span, "eventboard.queue_wait_us", i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
}

/// Says that what the span stands for has failed, and by which word of a closed set.
pub fn fail(span: &Span, error_type: impl Display) {
    set(span, key::ERROR_TYPE, error_type.to_string());
    span.span().set_status(Status::error(""));
}

fn set(span: &Span, name: &'static str, value: impl Into<opentelemetry::Value>) {
    span.span().set_attribute(KeyValue::new(name, value));
}

/// Puts the context of the running request into the headers of a message.
pub fn inject(message: &mut dyn Injector) {
    Context::map_current(|context| {
        if propagators().trace_context {
            TraceContextPropagator::new().inject_context(context, message);
        }
        let id = context.get::<Scope>().and_then(|scope| scope.correlation_id.as_ref());
        if propagators().baggage
            && let Some(id) = id
        {
            // Nothing in it needs to be encoded.
            message.set(headers::BAGGAGE, format!("{CORRELATION_ID}={id}"));
        }
    });
}

/// Headers without a `traceparent` that breaks its rules: the propagator takes ids of any length.
struct WellFormed<'a>(&'a dyn Extractor);

impl Extractor for WellFormed<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).filter(|value| name != "traceparent" || is_traceparent(value))
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys()
    }
}

/// Whether this is a `traceparent` (W3C Trace Context, section 3.2.2). A later version may have more behind it.
fn is_traceparent(value: &str) -> bool {
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = value.split('-');
    let (Some(version), Some(trace), Some(span), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let in_order = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    in_order && version != "ff" && (version != "00" || parts.next().is_none())
}

/// The context that came along, with `scope`. Baggage is left behind: the one thing it holds comes as a header of its
/// own.
fn extracted(headers: &dyn Extractor, scope: Scope) -> Context {
    let context = Context::new().with_value(scope);
    if propagators().trace_context {
        TraceContextPropagator::new().extract_with_context(&context, &WellFormed(headers))
    } else {
        context
    }
}

fn message_attributes(
    subject: &'static str,
    size: usize,
    operation: &'static str,
    operation_type: &'static str,
) -> [KeyValue; 5] {
    [
        KeyValue::new(key::MESSAGING_SYSTEM, "nats"),
        KeyValue::new(key::MESSAGING_OPERATION_NAME, operation),
        KeyValue::new(key::MESSAGING_OPERATION_TYPE, operation_type),
        KeyValue::new(key::MESSAGING_DESTINATION_NAME, subject),
        KeyValue::new(key::MESSAGING_MESSAGE_BODY_SIZE, i64::try_from(size).unwrap_or(i64::MAX)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Mutex;

    /// The correlation id of what runs, if that is a request.
    fn running() -> Option<String> {
        let id = |scope: &Scope| scope.correlation_id.as_ref().map(ToString::to_string);
        Context::map_current(|context| context.get::<Scope>().and_then(id))
    }

    #[test]
    fn a_malformed_traceparent_begins_no_trace() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let continued = |traceparent: &str| {
            let headers = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
            let id = CorrelationId::parse("some").unwrap();
            http_request("gateway", &id, &headers, "GET", "/", None).ids().trace_id.to_string() == trace
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
                *self.0.lock().unwrap() = running();
            }
        }

        let seen = Mutex::default();
        let mut future = Box::pin(
            async {
                let _dropped = Dropped(&seen);
                std::future::pending::<()>().await;
            }
            .in_span(some_request()),
        );
        assert!(futures_util::poll!(&mut future).is_pending());
        assert_eq!((seen.lock().unwrap().clone(), running()), (None, None));
        drop(future);
        assert_eq!((seen.lock().unwrap().as_deref(), running()), (Some("some"), None));
        assert_eq!(async { running() }.in_span(some_request()).await.as_deref(), Some("some"));
    }

    #[tokio::test]
    async fn what_is_not_recorded_has_the_ids_of_what_it_is_part_of() {
        let request = some_request();
        assert_ne!(request.ids(), TraceContext::NONE);
        let below = async { internal("password.verify").ids() }.in_span(request.clone()).await;
        assert_eq!(below, request.ids());
        assert_eq!(internal("password.verify").ids(), TraceContext::NONE);
    }

    #[tokio::test]
    async fn a_message_carries_the_ids_of_the_request_it_belongs_to() {
        let mut headers = HashMap::new();
        inject(&mut headers);
        assert_eq!(headers, HashMap::new());
        let request = some_request();
        async { inject(&mut headers) }.in_span(request.clone()).await;
        let TraceContext { trace_id, span_id } = request.ids();
        assert_eq!(headers["traceparent"], format!("00-{trace_id}-{span_id}-00"));
        assert_eq!(headers["baggage"], "correlation_id=some");
        let (id, group) = (CorrelationId::parse("other").unwrap(), "events");
        let taken = process("events-worker", &id, &headers, "events.get", group, 2).ids();
        assert!(taken.trace_id == trace_id && taken.span_id != span_id, "{taken:?}");
    }
}
