//! Log lines: JSON on stdout, readable on a terminal, every line of a request with its ids.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use contract::Timestamp;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use serde::Serializer as _;
use serde::ser::SerializeMap;
use tokio::time::Instant;
use tracing::dispatcher::WeakDispatch;
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::{self, Layer};

use super::log_throttle::{self, LogThrottle};
use super::output::Output;
use super::span::{self, CORRELATION_ID, REQUEST, Scope};

/// What is written when `RUST_LOG` says nothing.
const USUAL: &str = "info,async_nats=warn,sqlx=warn,hyper=warn,opentelemetry=warn";

/// Whose spans are made, and whose warnings belong on them, besides the services that the process is. What the SDK
/// says of its own must not give rise to more that is sent.
const SHARED: [&str; 7] =
    ["contract", "database", "eventboard", "identity", "messaging", "service", "telemetry"];

/// Decides for all layers what is made of spans and events, and writes the lines. It is the outermost layer: below it,
/// the bridge to OpenTelemetry sees our spans, and of the events our warnings and worse, whatever `RUST_LOG` says.
pub(super) struct LogLayer {
    services: Vec<&'static str>,
    /// Which events are written.
    wanted: Targets,
    /// Where to; `None` when none is written.
    output: Option<Output>,
    format: Format,
    limited: LogThrottle,
    dispatch: OnceLock<WeakDispatch>,
}

impl LogLayer {
    /// As `RUST_LOG` says, to `output` if there is one.
    pub(super) fn new(services: &[&'static str], output: Option<Output>) -> Self {
        let parse = |text: &str| Targets::from_str(text).ok();
        let given = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
        let wanted = given.as_deref().and_then(parse).or_else(|| parse(USUAL)).unwrap_or_default();
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let format = if io::stdout().is_terminal() { Format::Pretty { colours } } else { Format::Json };
        let services = services.to_vec();
        Self { services, wanted, output, format, limited: LogThrottle::default(), dispatch: OnceLock::new() }
    }

    fn is_ours(&self, metadata: &Metadata<'_>) -> bool {
        let of = metadata.target().split("::").next().unwrap_or_default();
        // The crate of a service has its name.
        SHARED.contains(&of) || self.services.iter().any(|service| service.split('-').eq(of.split('_')))
    }

    /// Whether an event with this metadata is put on the span it belongs to.
    fn is_put_on_span(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && self.is_ours(metadata)
    }

    fn is_written(&self, metadata: &Metadata<'_>) -> bool {
        self.output.is_some() && self.wanted.would_enable(metadata.target(), metadata.level())
    }

    /// The context that an event or a span comes from.
    fn running(&self) -> Context {
        let dispatch = self.dispatch.get().and_then(WeakDispatch::upgrade);
        dispatch.map_or_else(Context::current, |dispatch| span::running(&dispatch))
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // There is one in a process, and one in each test.
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match (metadata.is_span(), self.is_ours(metadata) && *metadata.level() <= Level::INFO) {
            (true, true) => Interest::sometimes(),
            (true, false) => Interest::never(),
            (false, _) if self.is_written(metadata) || self.is_put_on_span(metadata) => Interest::always(),
            (false, _) => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: layer::Context<'_, S>) -> bool {
        if !metadata.is_span() {
            return self.is_written(metadata) || self.is_put_on_span(metadata);
        }
        // What belongs to no recorded request has no span: loops in the background ask several times a second.
        metadata.target() == REQUEST || self.running().span().span_context().is_sampled()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.wanted).max(Some(LevelFilter::INFO))
    }

    /// Writes the line, and lets through to the bridge what belongs on a span, too.
    fn event_enabled(&self, event: &Event<'_>, _: layer::Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let also_on_span = self.is_put_on_span(metadata);
        // Whatever else has passed `enabled` is to be written. It is not asked again: of what libraries say through
        // `log`, only `enabled` knows the target.
        if let Some(output) = &self.output
            && (!also_on_span || self.is_written(metadata))
            && self.limited.admits(metadata, Instant::now())
        {
            // OpenTelemetry holds its span while it speaks.
            let context =
                if log_throttle::is_of_telemetry(metadata) { Context::new() } else { self.running() };
            let line = match self.format {
                Format::Json => json(event, &context, Timestamp::now()).unwrap_or_default(),
                Format::Pretty { colours } => pretty(event, &context, Timestamp::now(), colours),
            };
            output.line(line);
        }
        also_on_span
    }
}

/// How a line is written.
#[derive(Debug, Clone, Copy)]
enum Format {
    Json,
    Pretty { colours: bool },
}

/// What libraries name and say nothing else of.
fn name_alone(event: &Event<'_>) -> Option<&'static str> {
    let metadata = event.metadata();
    metadata.fields().field("message").is_none().then(|| metadata.name())
}

/// Nothing in it can fail: it is written into memory.
fn json(event: &Event<'_>, context: &Context, time: Timestamp) -> serde_json::Result<String> {
    let (metadata, scope, span) = (event.metadata(), context.get::<Scope>(), context.span());
    let mut line = Vec::with_capacity(512);
    // The members people look for first come first.
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut members = serializer.serialize_map(None)?;
    members.serialize_entry("time", &time)?;
    members.serialize_entry("level", metadata.level().as_str())?;
    if let Some(name) = name_alone(event) {
        members.serialize_entry("message", name)?;
    }
    let mut visitor = SerdeMapVisitor::new(members);
    event.record(&mut visitor);
    let mut members = visitor.take_serializer()?;
    members.serialize_entry("target", metadata.target())?;
    // The event knows better.
    if let Some(scope) = scope.filter(|_| metadata.fields().field("service").is_none()) {
        members.serialize_entry("service", scope.service)?;
    }
    if let Some(id) = scope.and_then(|scope| scope.correlation_id.as_ref()) {
        members.serialize_entry(CORRELATION_ID, id.as_str())?;
    }
    let ids = span.span_context();
    if ids.is_valid() {
        members.serialize_entry("trace_id", &format_args!("{}", ids.trace_id()))?;
        members.serialize_entry("span_id", &format_args!("{}", ids.span_id()))?;
    }
    members.end()?;
    line.push(b'\n');
    Ok(String::from_utf8(line).unwrap_or_default())
}

/// The time is of the day, and ids are cut: enough to tell lines on a screen apart. Nothing can fail here, either.
fn pretty(event: &Event<'_>, context: &Context, time: Timestamp, colours: bool) -> String {
    let (level, scope, span) = (*event.metadata().level(), context.get::<Scope>(), context.span());
    let style = |style: Style| if colours { style } else { Style::new() };
    let colour = style(Style::new().fg_color(Some(match level {
        Level::ERROR => AnsiColor::Red.into(),
        Level::WARN => AnsiColor::Yellow.into(),
        Level::INFO => AnsiColor::Green.into(),
        Level::DEBUG | Level::TRACE => AnsiColor::Blue.into(),
    })));
    let (bold, dim) = (style(Style::new().bold()), style(Style::new().dimmed()));
    let time = time.to_string();
    let (clock, service) = (time.get(11..23).unwrap_or(&time), scope.map_or("-", |scope| scope.service));
    let mut line = format!("{dim}{clock}{dim:#} {colour}{level:>5}{colour:#} {bold}{service:<13}{bold:#} ");
    line.push_str(name_alone(event).unwrap_or_default());
    let _ = DefaultFields::new().format_fields(Writer::new(&mut line), event);
    if let Some(id) = scope.and_then(|scope| scope.correlation_id.as_ref()) {
        let _ = write!(line, "{dim} {CORRELATION_ID}={:.8}{dim:#}", id.as_str());
    }
    if span.span_context().is_valid() {
        let _ = write!(line, "{dim} trace_id={:.8}{dim:#}", span.span_context().trace_id().to_string());
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{export, subscriber};
    use contract::{CorrelationId, TraceContext};
    use serde_json::{Value, json};
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};
    use tracing::Instrument;

    /// Keeps the lines that are written.
    #[derive(Clone, Default)]
    struct Recorded(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Recorded {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_to(output: Option<Output>, wanted: &str, format: Format) -> LogLayer {
        let wanted = Targets::from_str(wanted).unwrap();
        let services = vec!["gateway"];
        LogLayer {
            services,
            wanted,
            output,
            format,
            limited: LogThrottle::default(),
            dispatch: OnceLock::new(),
        }
    }

    /// The lines of what `log` logs.
    fn lines(format: Format, log: impl FnOnce()) -> Vec<String> {
        let recorded = Recorded::default();
        let output = Output::to(recorded.clone()).unwrap();
        let lines = lines_to(Some(output.clone()), "trace", format);
        tracing::subscriber::with_default(subscriber(export::unsent(), lines), log);
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(output.flush());
        let written = String::from_utf8(recorded.0.lock().unwrap().clone()).unwrap();
        written.split_inclusive('\n').map(str::to_owned).collect()
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
            "time": read[0]["time"], "level": "INFO", "target": "telemetry::log_format::tests", "message": odd,
            "odd": odd, "debug": format!("{odd:?}"), "count": 3, "below": -3, "yes": true, "half": 0.5,
        });
        assert_eq!(read[0], expected);
        assert_eq!((&read[1]["message"], &read[1]["target"]), (&json!("a name alone"), &json!("library")));
        assert_eq!((&read[1]["error"], &read[2]["service"]), (&json!(odd), &json!("another")));
        assert_eq!(written[2].matches("service").count(), 1);
    }

    #[test]
    fn lines_of_a_request_have_its_ids_in_both_formats() {
        let id = CorrelationId::parse("some-request").unwrap();
        let ids = Cell::new(TraceContext::NONE);
        let say = || {
            let span = span::http_request("gateway", &id, &HashMap::new(), "GET", "/", None);
            ids.set(span::ids(&span));
            futures_util::FutureExt::now_or_never(async { tracing::info!("said") }.instrument(span)).unwrap();
        };
        let read: Value = serde_json::from_str(&lines(Format::Json, say)[0]).unwrap();
        let TraceContext { trace_id, span_id } = ids.get();
        assert_eq!((&read["correlation_id"], &read["service"]), (&json!("some-request"), &json!("gateway")));
        assert_eq!(
            (&read["trace_id"], &read["span_id"]),
            (&json!(trace_id.to_string()), &json!(span_id.to_string()))
        );
        let text = &lines(Format::Pretty { colours: false }, say)[0];
        let trace_id = ids.get().trace_id.to_string();
        let expected = format!("gateway       said correlation_id=some-req trace_id={}\n", &trace_id[..8]);
        assert!(text.ends_with(&expected), "{text}");
    }

    #[test]
    fn what_is_written_is_asked_for_and_what_is_ours_and_bad_is_let_through() {
        let lines = |written: bool, text: &str| {
            lines_to(written.then(|| Output::to(io::sink()).unwrap()), text, Format::Json)
        };
        let passed = |lines: LogLayer| {
            tracing::subscriber::with_default(subscriber(export::unsent(), lines), || {
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
