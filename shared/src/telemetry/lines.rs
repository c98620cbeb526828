//! Log lines: JSON on stdout, readable on a terminal, every line of a request with its ids.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
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
use super::output::Output;
use super::span::{CORRELATION_ID, Scope};
use crate::contract::Timestamp;

/// What is written when `RUST_LOG` says nothing.
const USUAL: &str = "info,async_nats=warn,sqlx=warn,hyper=warn,opentelemetry=warn";

/// Whose warnings belong on a span. What the SDK says of its own must not give rise to more that is sent; it also says
/// it while it holds the span.
const OURS: [&str; 6] = ["shared", "database", "gateway", "auth_worker", "events_worker", "eventboard"];

/// What becomes of each event: a line, if `RUST_LOG` asks for it, and from a warning on an event on the span that it
/// belongs to, whatever `RUST_LOG` says. Spans of `tracing` are nobody's: ours are made elsewhere ([`super::span`]).
pub(super) struct Lines {
    /// Which events are written.
    wanted: Targets,
    /// Where to; `None` when none is written.
    output: Option<Output>,
    format: Format,
    limited: Limited,
}

impl Lines {
    /// As `RUST_LOG` says, to `output` if there is one.
    pub(super) fn new(output: Option<Output>) -> Self {
        let text = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
        let usual = || Targets::from_str(USUAL).unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
        let wanted = text.and_then(|text| Targets::from_str(&text).ok()).unwrap_or_else(usual);
        let format = if io::stdout().is_terminal() { Format::Pretty } else { Format::Json };
        Self { wanted, output, format, limited: Limited::default() }
    }

    fn is_written(&self, metadata: &Metadata<'_>) -> bool {
        self.output.is_some() && self.wanted.would_enable(metadata.target(), metadata.level())
    }
}

/// Whether an event with this metadata is put on the span it belongs to.
fn is_put_on_span(metadata: &Metadata<'_>) -> bool {
    let krate = || metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::WARN && OURS.contains(&krate())
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: layer::Context<'_, S>) -> bool {
        !metadata.is_span() && (self.is_written(metadata) || is_put_on_span(metadata))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let levels = |wanted: &Targets| {
            let levels = wanted.iter().map(|(_, level)| level).chain(wanted.default_level());
            levels.max().unwrap_or(LevelFilter::OFF)
        };
        let written = self.output.as_ref().map_or(LevelFilter::OFF, |_| levels(&self.wanted));
        Some(written.max(LevelFilter::WARN))
    }

    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let metadata = event.metadata();
        let also_on_span = is_put_on_span(metadata);
        if also_on_span {
            put_on_span(event);
        }
        // Whatever else has passed `enabled` is to be written. It is not asked again: of what libraries say through
        // `log`, only `enabled` is told the target.
        if let Some(output) = &self.output
            && (!also_on_span || self.is_written(metadata))
            && self.limited.admits(metadata, Instant::now())
        {
            output.line(line(event, self.format, Timestamp::now()));
        }
    }
}

/// Puts an event on the span that runs.
fn put_on_span(event: &Event<'_>) {
    let context = Context::current();
    let span = context.span();
    if span.is_recording() {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let attributes = vec![KeyValue::new("level", level.as_str()), KeyValue::new("target", target)];
        let mut said = Said(String::new(), attributes);
        event.record(&mut said);
        if level == Level::ERROR {
            span.set_status(Status::error(""));
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

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.1.push(KeyValue::new(field.name(), value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.1.push(KeyValue::new(field.name(), value));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::CorrelationId;
    use crate::telemetry::span::{self, InSpan};
    use serde_json::{Value, json};
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    /// Keeps the lines of what is logged.
    struct Kept(Format, Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
            self.1.lock().unwrap().push(line(event, self.0, Timestamp::now()));
        }
    }

    /// The lines of what `log` logs.
    fn lines(format: Format, log: impl FnOnce()) -> Vec<String> {
        let kept: Arc<Mutex<Vec<String>>> = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Kept(format, Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, log);
        Arc::into_inner(kept).unwrap().into_inner().unwrap()
    }

    #[test]
    fn whatever_is_said_is_one_line_of_json() {
        let odd = "a \"quoted\" \\ line\nand \u{7f} the \u{1b}[31m next ÿ \u{2028}";
        let written = lines(Format::Json, || {
            tracing::info!(odd, debug = ?odd, count = 3_u64, below = -3, yes = true, half = 0.5, "{odd}");
            tracing::event!(name: "a name alone", target: "library", Level::WARN, error = %odd);
            tracing::warn!(service = "another", "knows better");
        });
        assert_eq!(written.len(), 3);
        assert!(written.iter().all(|line| line.ends_with('\n') && line.lines().count() == 1), "{written:?}");
        let read: Vec<Value> = written.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = json!({
            "time": read[0]["time"], "level": "INFO", "target": "shared::telemetry::lines::tests", "message": odd,
            "odd": odd, "debug": format!("{odd:?}"), "count": 3, "below": -3, "yes": true, "half": "0.5",
        });
        assert_eq!(read[0], expected);
        assert_eq!((&read[1]["message"], &read[1]["target"]), (&json!("a name alone"), &json!("library")));
        assert_eq!((&read[1]["error"], &read[2]["service"]), (&json!(odd), &json!("another")));
        assert_eq!(written[2].matches("service").count(), 1);
    }

    #[test]
    fn lines_of_a_request_have_its_ids_in_both_formats() {
        let id = CorrelationId::parse("some-request").unwrap();
        let span = span::http_request("gateway", &id, &HashMap::new(), "GET", "/", None);
        let ids = span.ids();
        let say =
            || futures_util::FutureExt::now_or_never(async { tracing::info!("said") }.in_span(span.clone()));
        let read: Value = serde_json::from_str(&lines(Format::Json, || say().unwrap())[0]).unwrap();
        assert_eq!((&read["correlation_id"], &read["service"]), (&json!("some-request"), &json!("gateway")));
        assert_eq!(read["trace_id"], ids.trace_id.to_string());
        assert_eq!(read["span_id"], ids.span_id.to_string());
        let text = &lines(Format::Pretty, || say().unwrap())[0];
        let expected = format!(
            "gateway       said correlation_id=some-request trace_id={} span_id={}\n",
            ids.trace_id, ids.span_id
        );
        assert!(text.ends_with(&expected), "{text}");
    }

    #[test]
    fn what_is_written_is_asked_for_and_what_is_ours_and_bad_is_let_through() {
        let lines = |written: bool, text: &str| Lines {
            wanted: Targets::from_str(text).unwrap(),
            output: written.then(|| Output::to(io::sink()).unwrap()),
            format: Format::Json,
            limited: Limited::default(),
        };
        let passed = |lines: Lines| {
            let subscriber = tracing_subscriber::registry().with(lines);
            tracing::subscriber::with_default(subscriber, || {
                [
                    tracing::enabled!(target: "library", Level::INFO),
                    tracing::enabled!(target: "library", Level::ERROR),
                    tracing::enabled!(target: "gateway::edge", Level::INFO),
                    tracing::enabled!(target: "gateway::edge", Level::WARN),
                    tracing::enabled!(target: "gateway::edge", Level::TRACE),
                ]
            })
        };
        assert_eq!(passed(lines(true, "info,library=warn")), [false, true, true, true, false]);
        assert_eq!(passed(lines(true, "off")), [false, false, false, true, false]);
        assert_eq!(passed(lines(true, "gateway=trace")), [false, false, true, true, true]);
        assert_eq!(passed(lines(false, "trace")), [false, false, false, true, false]);
    }
}
