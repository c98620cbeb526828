//! A collector of traces (OTLP over HTTP) that keeps what it is sent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::eventually;

/// One span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub kind: SpanKind,
    pub trace_id: String,
    pub id: String,
    /// Empty for the first one of a trace.
    pub parent: String,
    pub failed: bool,
    pub attributes: HashMap<String, String>,
    /// Trace and span ids.
    pub links: Vec<(String, String)>,
    pub begun: u64,
    pub ended: u64,
    /// Everything it says, in one text.
    pub text: String,
}

impl Span {
    /// The value of an attribute, empty when there is none.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// A running collector. Dropping it ends it.
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
        Self { address, spans, serving }
    }

    /// The variables that make a process send its spans here, soon.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ]
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// The spans so far that belong to the request with this correlation id.
    pub fn spans_of(&self, correlation_id: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.attribute("correlation_id") == correlation_id);
        spans
    }

    /// The spans of a request, once all that are asked for by name are there.
    pub async fn request(&self, correlation_id: &str, names: &[&str]) -> Vec<Span> {
        let arrived = || {
            let spans = self.spans_of(correlation_id);
            names.iter().all(|name| spans.iter().any(|span| span.name == *name))
        };
        eventually(&format!("{names:?} arrive"), || async { arrived() }).await;
        self.spans_of(correlation_id)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(spans): State<Arc<Mutex<Vec<Span>>>>, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    for resource in request.resource_spans {
        let about = attributes(&resource.resource.expect("a resource").attributes);
        let service = about["service.name"].clone();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let text = format!("{span:?}");
            spans.lock().unwrap().push(Span {
                service: service.clone(),
                kind: span.kind(),
                trace_id: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                failed: span.status.is_some_and(|status| status.code() == Code::Error),
                attributes: attributes(&span.attributes),
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                name: span.name,
                begun: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                text,
            });
        }
    }
    StatusCode::OK
}

fn attributes(pairs: &[KeyValue]) -> HashMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => panic!("an attribute of an unexpected type: {other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(&pair.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
