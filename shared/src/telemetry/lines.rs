//! Log lines: JSON on stdout, readable on a terminal, every line of a request with its ids.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::str::FromStr;

use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer;

use super::noise::Limited;
use super::span::{CORRELATION_ID, Scope};
use crate::contract::Timestamp;

/// What is written when `RUST_LOG` says nothing.
const USUAL: &str = "info,async_nats=warn,sqlx=warn,hyper=warn,opentelemetry=warn";

/// Whose warnings belong on a span: what the SDK says of its own must not give rise to more that is sent.
const OURS: [&str; 6] = ["shared", "database", "gateway", "auth_worker", "events_worker", "eventboard"];

/// What becomes of each event: a line, if `RUST_LOG` asks for it, and from a warning on an event on the span that it
/// belongs to, whatever `RUST_LOG` says. Spans of `tracing` are nobody's: ours are made elsewhere ([`super::span`]).
pub(super) struct Lines {
    /// Which events are written; `None` when none is.
    wanted: Option<Targets>,
    format: Format,
    limited: Limited,
}

impl Lines {
    /// As `RUST_LOG` says, if lines are `written` at all.
    pub(super) fn new(written: bool) -> Self {
        let text = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
        let usual = || Targets::from_str(USUAL).unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
        let wanted = text.and_then(|text| Targets::from_str(&text).ok()).unwrap_or_else(usual);
        let format = if io::stdout().is_terminal() { Format::Pretty } else { Format::Json };
        Self { wanted: written.then_some(wanted), format, limited: Limited::default() }
    }

    fn is_written(&self, metadata: &Metadata<'_>) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.would_enable(metadata.target(), metadata.level()))
    }
}

/// Whether an event with this metadata is put on the span it belongs to.
fn is_put_on_span(metadata: &Metadata<'_>) -> bool {
    let krate = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::WARN && OURS.contains(&krate)
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: layer::Context<'_, S>) -> bool {
        metadata.is_event() && (self.is_written(metadata) || is_put_on_span(metadata))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let levels = |wanted: &Targets| {
            let levels = wanted.iter().map(|(_, level)| level).chain(wanted.default_level());
            levels.max().unwrap_or(LevelFilter::OFF)
        };
        Some(self.wanted.as_ref().map_or(LevelFilter::OFF, levels).max(LevelFilter::WARN))
    }

    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let metadata = event.metadata();
        if is_put_on_span(metadata) {
            put_on_span(event);
        }
        if self.is_written(metadata) && self.limited.admits(metadata, Instant::now()) {
            // Whoever was to read it may be gone, and there is nobody else to tell.
            let _ = io::stdout().lock().write_all(line(event, self.format, Timestamp::now()).as_bytes());
        }
    }
}

/// Puts an event on the span that runs.
fn put_on_span(event: &Event<'_>) {
    let context = Context::current();
    let span = context.span();
    if span.is_recording() {
        let level = *event.metadata().level();
        let mut said = Said(String::new(), vec![KeyValue::new("level", level.as_str())]);
        event.record(&mut said);
        if level == Level::ERROR {
            span.set_status(Status::error(said.0.clone()));
        }
        span.add_event(said.0, said.1);
    }
}

/// An event's message, and its fields as attributes.
struct Said(String, Vec<KeyValue>);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.0);
        } else {
            self.1.push(KeyValue::new(field.name(), value.to_owned()));
        }
    }
}

/// The fields of a line, written one after the other as they come.
struct Fields {
    format: Format,
    message: String,
    text: String,
}

impl Fields {
    fn name(&mut self, name: &str) {
        match self.format {
            Format::Json => self.text.extend([",\"", name, "\":"]),
            Format::Pretty => self.text.extend([" ", name, "="]),
        }
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        match self.format {
            Format::Json => json(&mut self.text, value),
            Format::Pretty => self.text.push_str(value),
        }
    }

    fn plain(&mut self, name: &str, value: impl fmt::Display) {
        self.name(name);
        // Nothing can fail: it is written into memory.
        let _ = write!(self.text, "{value}");
    }

    /// The ids of the request that the line belongs to, from the context that travels with it.
    fn ids(&mut self, context: &Context, scope: Option<&Scope>) {
        if let Some(id) = scope.and_then(|scope| scope.correlation_id.as_ref()) {
            self.text(CORRELATION_ID, id.as_str());
        }
        let span = context.span();
        let span = span.span_context();
        if span.is_valid() {
            let (trace_id, span_id) = (span.trace_id(), span.span_id());
            let _ = match self.format {
                Format::Json => {
                    write!(self.text, r#","trace_id":"{trace_id}","span_id":"{span_id}""#)
                }
                Format::Pretty => write!(self.text, " trace_id={trace_id} span_id={span_id}"),
            };
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.text(field.name(), &format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.text(field.name(), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), value);
    }
}

/// Writes a text as JSON.
fn json(out: &mut String, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        out.extend(["\"", text, "\""]);
    } else {
        // Serialising a text into memory has no way to fail.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// How a line is written.
#[derive(Debug, Clone, Copy)]
enum Format {
    Json,
    Pretty,
}

/// The line of an event, with what the running context says of whose it is.
fn line(event: &Event<'_>, format: Format, time: Timestamp) -> String {
    let metadata = event.metadata();
    let mut fields = Fields { format, message: String::new(), text: String::with_capacity(512) };
    let service = Context::map_current(|context| {
        let scope = context.get::<Scope>();
        fields.ids(context, scope);
        scope.map(|scope| scope.service)
    });
    event.record(&mut fields);
    let Fields { mut message, text, .. } = fields;
    if message.is_empty() {
        // Libraries name some of their events and say nothing else.
        metadata.name().clone_into(&mut message);
    }
    let (level, target) = (metadata.level(), metadata.target());
    let mut line = String::with_capacity(192 + message.len() + text.len());
    // Nothing can fail: it is written into memory.
    let _ = match format {
        Format::Json => {
            // The members people look for first come first.
            let _ = write!(line, r#"{{"time":"{time}","level":"{level}","message":"#);
            json(&mut line, &message);
            line.extend([",\"target\":\"", target, "\""]);
            // The event knows better.
            if let Some(service) = service.filter(|_| metadata.fields().field("service").is_none()) {
                line.extend([",\"service\":\"", service, "\""]);
            }
            writeln!(line, "{text}}}")
        }
        Format::Pretty => {
            let service = service.unwrap_or("-");
            writeln!(line, "{time} {level:>5} {service:<13} {message}{text}")
        }
    };
    line
}
