//! Log lines: JSON on stdout, readable on a terminal, every line of a request with its ids.

use std::fmt;
use std::io::IsTerminal;

use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::noise::Limited;
use super::span::{self, CORRELATION_ID};
use crate::contract::Timestamp;

/// What is written when `RUST_LOG` says nothing.
const USUAL: &str = "info,async_nats=warn,sqlx=warn,hyper=warn";

/// Writes lines. `RUST_LOG` filters events only: were it to filter spans, a quiet log would lose its ids.
pub(super) fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(USUAL));
    let format = if std::io::stdout().is_terminal() { Format::Pretty } else { Format::Json };
    let lines = tracing_subscriber::fmt::layer().event_format(Line { format, limited: Limited::default() });
    let spans = filter_fn(|metadata| metadata.is_span()).with_max_level_hint(LevelFilter::INFO);
    SpanFields.and_then(lines.with_filter(wanted.or(spans)))
}

/// Span fields that every line below them repeats.
#[derive(Debug, Default, Clone)]
struct Inherited(Map<String, Value>);

/// Keeps each span's fields where the formatter finds them. Of spans that are exported, lines hold the ids only.
struct SpanFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() != span::TARGET
            && let Some(span) = context.span(id)
        {
            let mut fields = Inherited::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }
}

impl Inherited {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Inherited {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }
}

/// The ids of the request that a line belongs to, from the context that travels with it.
fn put_ids(fields: &mut Map<String, Value>) {
    opentelemetry::Context::map_current(|context| {
        if let Some(id) = context.baggage().get(CORRELATION_ID) {
            fields.insert(CORRELATION_ID.to_owned(), Value::from(id.as_str()));
        }
        let span = context.span();
        let span = span.span_context();
        if span.is_valid() {
            fields.insert("trace_id".to_owned(), Value::from(span.trace_id().to_string()));
            fields.insert("span_id".to_owned(), Value::from(span.span_id().to_string()));
        }
    });
}

/// How a line is written.
#[derive(Debug)]
struct Line {
    format: Format,
    limited: Limited,
}

#[derive(Debug)]
enum Format {
    Json,
    Pretty,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.limited.admits(event.metadata(), Instant::now()) {
            return Ok(());
        }
        let mut fields = Inherited::default();
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(inherited) = span.extensions().get::<Inherited>() {
                fields.0.extend(inherited.0.clone());
            }
        }
        put_ids(&mut fields.0);
        event.record(&mut fields);
        // Libraries name some of their events and say nothing else.
        let message = fields.0.remove("message").unwrap_or_else(|| Value::from(event.metadata().name()));
        let (level, time) = (event.metadata().level(), Timestamp::now());
        match self.format {
            Format::Json => {
                // The members people look for first come first.
                let target = Value::from(event.metadata().target());
                write!(out, r#"{{"time":"{time}","level":"{level}","message":{message},"target":{target}"#)?;
                for (name, value) in &fields.0 {
                    write!(out, ",{}:{value}", Value::from(name.as_str()))?;
                }
                writeln!(out, "}}")
            }
            Format::Pretty => {
                let service = fields.0.remove("service").unwrap_or_default();
                let service = service.as_str().unwrap_or("-");
                write!(out, "{time} {level:>5} {service:<13} {}", message.as_str().unwrap_or_default())?;
                for (name, value) in &fields.0 {
                    match value {
                        Value::String(text) => write!(out, " {name}={text}")?,
                        other => write!(out, " {name}={other}")?,
                    }
                }
                writeln!(out)
            }
        }
    }
}
