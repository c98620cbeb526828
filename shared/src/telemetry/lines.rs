//! Log lines: JSON on stdout, readable on a terminal, every line of a request with its ids.

use std::fmt::{self, Write};
use std::io::IsTerminal;
use std::str::FromStr;

use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::TraceContextExt;
use serde_json::Value;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::noise::Limited;
use super::span::{self, CORRELATION_ID};
use crate::contract::Timestamp;

/// What is written when `RUST_LOG` says nothing.
const USUAL: &str = "info,async_nats=warn,sqlx=warn,hyper=warn,opentelemetry=warn";

/// Writes lines. `RUST_LOG` filters events by target and level. Spans it does not touch: of those that are exported a
/// line needs no field, and of the others none must be lost for want of noise.
pub(super) fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let usual = || Targets::from_str(USUAL).unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    let wanted = wanted.and_then(|text| Targets::from_str(&text).ok()).unwrap_or_else(usual);
    let format = if std::io::stdout().is_terminal() { Format::Pretty } else { Format::Json };
    let lines = tracing_subscriber::fmt::layer().event_format(Line { format, limited: Limited::default() });
    let loudest = wanted.iter().map(|(_, level)| level).chain(wanted.default_level()).max();
    let is_wanted = move |metadata: &Metadata<'_>| {
        if metadata.is_span() {
            metadata.target() != span::TARGET && *metadata.level() <= Level::INFO
        } else {
            wanted.would_enable(metadata.target(), metadata.level())
        }
    };
    let loudest = loudest.unwrap_or(LevelFilter::INFO).max(LevelFilter::INFO);
    SpanFields.and_then(lines.with_filter(filter_fn(is_wanted).with_max_level_hint(loudest)))
}

/// Fields of spans that every line below them repeats, as JSON values.
#[derive(Debug, Default)]
struct Inherited(Vec<(&'static str, Value)>);

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

impl Visit for Inherited {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), Value::String(format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), Value::from(value)));
    }
}

/// The fields of a line, written one after the other as they come.
struct Fields {
    format: Format,
    message: Option<String>,
    text: String,
}

impl Fields {
    fn name(&mut self, name: &str) {
        // Nothing can fail: it is written into memory.
        let _ = match self.format {
            Format::Json => write!(self.text, ",\"{name}\":"),
            Format::Pretty => write!(self.text, " {name}="),
        };
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        match self.format {
            Format::Json => self.text.push_str(&json(value)),
            Format::Pretty => self.text.push_str(value),
        }
    }

    fn plain(&mut self, name: &str, value: impl fmt::Display) {
        self.name(name);
        let _ = write!(self.text, "{value}");
    }

    /// The ids of the request that the line belongs to, from the context that travels with it.
    fn ids(&mut self) {
        opentelemetry::Context::map_current(|context| {
            if let Some(id) = context.baggage().get(CORRELATION_ID) {
                self.text(CORRELATION_ID, id.as_str());
            }
            let span = context.span();
            let span = span.span_context();
            if span.is_valid() {
                self.text("trace_id", &span.trace_id().to_string());
                self.text("span_id", &span.span_id().to_string());
            }
        });
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = Some(value.to_owned());
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

/// A text as JSON.
fn json(text: &str) -> String {
    // Serialising a text into memory has no way to fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// How a line is written.
#[derive(Debug)]
struct Line {
    format: Format,
    limited: Limited,
}

#[derive(Debug, Clone, Copy)]
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
        let metadata = event.metadata();
        if !self.limited.admits(metadata, Instant::now()) {
            return Ok(());
        }
        let mut fields = Fields { format: self.format, message: None, text: String::with_capacity(256) };
        let mut service = None;
        for span in context.event_scope().into_iter().flatten() {
            for (name, value) in span.extensions().get::<Inherited>().into_iter().flat_map(|of| &of.0) {
                match value.as_str() {
                    Some(text) if *name == "service" => service = Some(text.to_owned()),
                    // The event knows better.
                    _ if metadata.fields().field(name).is_some() => {}
                    Some(text) => fields.text(name, text),
                    None => fields.plain(name, value),
                }
            }
        }
        fields.ids();
        event.record(&mut fields);
        // Libraries name some of their events and say nothing else.
        let message = fields.message.as_deref().unwrap_or_else(|| metadata.name());
        let (level, time, text) = (metadata.level(), Timestamp::now(), &fields.text);
        match self.format {
            Format::Json => {
                // The members people look for first come first.
                let (message, target) = (json(message), metadata.target());
                write!(
                    out,
                    r#"{{"time":"{time}","level":"{level}","message":{message},"target":"{target}""#
                )?;
                if let Some(service) = service.filter(|_| metadata.fields().field("service").is_none()) {
                    write!(out, r#","service":{}"#, json(&service))?;
                }
                writeln!(out, "{text}}}")
            }
            Format::Pretty => {
                let service = service.as_deref().unwrap_or("-");
                writeln!(out, "{time} {level:>5} {service:<13} {message}{text}")
            }
        }
    }
}
