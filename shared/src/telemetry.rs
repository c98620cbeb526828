//! Log lines: JSON on stdout, readable on a terminal, every line of a request with its ids.

use std::fmt;
use std::io::IsTerminal;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::contract::Timestamp;

/// Starts logging for this process. `RUST_LOG` filters; `info` by default.
pub fn init() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn,sqlx=warn,hyper=warn"));
    let format = if std::io::stdout().is_terminal() { Format::Pretty } else { Format::Json };
    let lines = tracing_subscriber::fmt::layer().event_format(format);
    // Fails when a subscriber is set already, as in a test: then that one stays.
    let _ = tracing_subscriber::registry().with(SpanFields).with(lines.with_filter(filter)).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without a message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panicked: {message}");
    }));
}

/// Span fields that every line below them repeats.
#[derive(Debug, Default, Clone)]
struct Inherited(Map<String, Value>);

/// Keeps each span's fields where the formatter finds them.
struct SpanFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
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

#[derive(Debug, Clone, Copy)]
enum Format {
    Json,
    Pretty,
}

impl<S, N> FormatEvent<S, N> for Format
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
        let mut fields = Inherited::default();
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(inherited) = span.extensions().get::<Inherited>() {
                fields.0.extend(inherited.0.clone());
            }
        }
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        let (level, time) = (event.metadata().level(), Timestamp::now());
        match self {
            Self::Json => {
                // The members people look for first come first.
                let target = Value::from(event.metadata().target());
                write!(out, r#"{{"time":"{time}","level":"{level}","message":{message},"target":{target}"#)?;
                for (name, value) in &fields.0 {
                    write!(out, ",{}:{value}", Value::from(name.as_str()))?;
                }
                writeln!(out, "}}")
            }
            Self::Pretty => {
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
