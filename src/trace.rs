//! `eventboard trace ID`: the story of one request, from Jaeger and from the history of events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use contract::{CorrelationId, Timestamp, events};
use database::DatabaseSettings;
use events_worker::store::audit::{self, Change};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use reqwest::{Client, StatusCode};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use settings::secret;

/// How long Jaeger may take for one question.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Traces that are looked at where Jaeger cannot be asked for those of one request.
const MAX_UNFILTERED: u32 = 1500;
/// The attribute that names the request whose answer was given again.
const ORIGINAL_TRACE: &str = "idempotency.original_trace_id";

/// Which request, and whom to ask.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// The id that the request was sent with, or was given: X-Correlation-ID
    #[arg(value_parser = correlation_id, allow_hyphen_values = true)]
    correlation_id: CorrelationId,
    /// Address of Jaeger, which is asked for the spans
    #[arg(long, env = "EVENTBOARD_JAEGER_URL", default_value = "http://127.0.0.1:16686")]
    jaeger: String,
    /// How far to look back, in hours
    #[arg(long, default_value_t = 48)]
    hours: i64,
    /// The database of the events worker, which is asked for what was done
    #[command(flatten)]
    database: DatabaseSettings,
    /// The same, as the all-in-one system names it
    #[arg(long, env = "EVENTBOARD_EVENTS_DATABASE_URL", hide_env_values = true, value_parser = secret)]
    events_database_url: Option<SecretString>,
    /// Directory of the all-in-one system, whose events.db is asked when no database is named
    #[arg(long, env = "EVENTBOARD_DATA_DIR", default_value = "./.eventboard")]
    data_dir: PathBuf,
}

fn correlation_id(text: &str) -> Result<CorrelationId, &'static str> {
    CorrelationId::parse(text).ok_or("an id has 1 to 128 letters, digits, dots, underscores and hyphens")
}

/// What was found, and whether it is everything that could be asked for.
#[derive(Debug)]
pub struct Report {
    /// For people to read.
    pub text: String,
    /// Whether the request was found, and every source answered.
    pub complete: bool,
}

/// Reports what is known of a request.
pub async fn trace(config: &Config) -> Report {
    let ((spans, missing), changes) = tokio::join!(spans(config), changes(config));
    let mut text = format!("Request {}\n", config.correlation_id);
    let known = !spans.is_empty() || changes.as_ref().is_ok_and(|changes| !changes.is_empty());
    let complete = known && missing.is_none() && changes.is_ok();
    spans.iter().for_each(|(id, trace)| write_trace(&mut text, id, trace));
    match &missing {
        Some(error) => {
            let _ = writeln!(text, "\nSpans are missing: {error}.");
        }
        None if spans.is_empty() => {
            let hours = config.hours;
            let _ = writeln!(text, "\nJaeger at {} knows of no span within {hours} hours.", config.jaeger);
        }
        None => {}
    }
    match &changes {
        Ok(changes) if changes.is_empty() => text.push_str("\nNothing was changed under this id.\n"),
        Ok(changes) => {
            text.push_str("\nChanged under this id\n\n");
            changes.iter().for_each(|change| write_change(&mut text, change));
        }
        Err(error) => {
            let _ = writeln!(text, "\nThe history is missing: {error}.");
        }
    }
    Report { text, complete }
}

/// Why one of those who were asked said nothing.
#[derive(Debug, thiserror::Error)]
enum TraceError {
    #[error("Jaeger at {0} cannot be reached ({1})")]
    Jaeger(String, reqwest::Error),
    #[error("Jaeger at {0} answers {1}")]
    Refused(String, StatusCode),
    #[error("Jaeger at {0} answers with an error ({1})")]
    Failed(String, serde_json::Value),
    #[error("the answer of Jaeger at {0} cannot be understood ({1})")]
    Unreadable(String, serde_json::Error),
    #[error("{0}")]
    Database(#[from] database::StoreError),
    #[error("EVENTBOARD_DATABASE_URL: {0}")]
    Url(#[from] database::UnknownDatabase),
    #[error("there is no database at {0}; name one with EVENTBOARD_DATABASE_URL")]
    NoDatabase(String),
}

async fn changes(config: &Config) -> Result<Vec<Change>, TraceError> {
    let mut settings = config.database.clone();
    settings.database_url = settings.database_url.or_else(|| config.events_database_url.clone());
    let file = config.data_dir.join("events.db");
    if settings.database_url.is_none() && !file.exists() {
        return Err(TraceError::NoDatabase(file.display().to_string()));
    }
    Ok(audit::changes(settings.resolve(&file)?, &config.correlation_id).await?)
}

fn write_change(text: &mut String, Change { event, organization, entry }: &Change) {
    let stood = |status: Option<events::EventStatus>| status.map_or("nothing", |status| status.as_str());
    let _ = writeln!(
        text,
        "  {}  {} event {event}: {} → {}, by user {} of organisation {organization}",
        entry.at,
        entry.action.as_str(),
        stood(entry.from),
        stood(entry.to),
        entry.actor,
    );
}

/// Spans by the ids of their traces, in the order in which the traces began.
type Traces = Vec<(String, Vec<Span>)>;

/// A span, with the service that made it and its ids as texts.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    otlp: otlp::Span,
}

/// What was found: OTLP in JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Found {
    resource_spans: Vec<otlp::ResourceSpans>,
}

/// One piece of an answer, which is a stream of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Chunk {
    result: Found,
    error: Option<serde_json::Value>,
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        _ => return None,
    })
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Span {
    fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.otlp.attributes, name)
    }
}

/// The traces of the request, and those in which what was given out again was first answered; and why some of them
/// may be missing.
async fn spans(config: &Config) -> (Traces, Option<TraceError>) {
    let jaeger = Jaeger { client: Client::new(), base: config.jaeger.trim_end_matches('/').to_owned() };
    let mut traces: BTreeMap<String, HashMap<String, Span>> = BTreeMap::new();
    let mut keep = |spans: Vec<Span>| {
        for span in spans {
            traces.entry(span.trace_id.clone()).or_default().insert(span.span_id.clone(), span);
        }
    };
    let mut missing = None;
    for service in crate::services::all().map(|(name, _)| name) {
        match jaeger.find(service, config).await {
            Ok(spans) => keep(spans),
            Err(error) => missing = Some(error),
        }
    }
    let id = config.correlation_id.as_str();
    traces.retain(|_, spans| {
        spans.values().any(|span| span.attribute("correlation_id").as_deref() == Some(id))
    });
    let originals: HashSet<String> = traces
        .values()
        .flat_map(HashMap::values)
        .filter_map(|span| span.attribute(ORIGINAL_TRACE))
        .filter(|original| !traces.contains_key(original))
        .collect();
    for original in originals {
        let spans = jaeger.get(&original).await.unwrap_or_else(|error| {
            missing = Some(error);
            Vec::new()
        });
        for span in spans {
            traces.entry(original.clone()).or_default().insert(span.span_id.clone(), span);
        }
    }
    let mut traces: Traces =
        traces.into_iter().map(|(id, spans)| (id, spans.into_values().collect())).collect();
    for (_, spans) in &mut traces {
        spans.sort_by(|a, b| {
            (a.otlp.start_time_unix_nano, &a.span_id).cmp(&(b.otlp.start_time_unix_nano, &b.span_id))
        });
    }
    traces.sort_by_key(|(_, spans)| spans.first().map(|span| span.otlp.start_time_unix_nano));
    (traces, missing)
}

/// Jaeger's API, version 3.
struct Jaeger {
    client: Client,
    base: String,
}

impl Jaeger {
    /// The traces in which a span of `service` belongs to the request.
    async fn find(&self, service: &str, config: &Config) -> Result<Vec<Span>, TraceError> {
        let until = Timestamp::now();
        let since = until.plus_seconds(-config.hours.saturating_mul(3600));
        let attributes = json!({ "correlation_id": config.correlation_id.as_str() }).to_string();
        let (since, until) = (since.to_string(), until.plus_seconds(60).to_string());
        let query = [
            ("query.serviceName", service),
            ("query.startTimeMin", &since),
            ("query.startTimeMax", &until),
            ("query.attributes", &attributes),
            ("query.searchDepth", "100"),
        ];
        match self.ask("/api/v3/traces", &query).await {
            // Before 2.19 parameters were spelled differently, and attributes could not be asked for.
            Err(TraceError::Refused(_, StatusCode::BAD_REQUEST)) => {
                let most = MAX_UNFILTERED.to_string();
                let query = [
                    ("query.service_name", service),
                    ("query.start_time_min", &since),
                    ("query.start_time_max", &until),
                    ("query.num_traces", &most),
                ];
                self.ask("/api/v3/traces", &query).await
            }
            found => found,
        }
    }

    /// One trace.
    async fn get(&self, id: &str) -> Result<Vec<Span>, TraceError> {
        self.ask(&format!("/api/v3/traces/{id}"), &[]).await
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Span>, TraceError> {
        let base = || self.base.clone();
        let request = self.client.get(format!("{}{path}", self.base)).query(query).timeout(TIMEOUT);
        let response =
            request.send().await.map_err(|error| TraceError::Jaeger(base(), error.without_url()))?;
        match response.status() {
            StatusCode::NOT_FOUND => return Ok(Vec::new()),
            status if !status.is_success() => return Err(TraceError::Refused(base(), status)),
            _ => {}
        }
        let body = response.bytes().await.map_err(|error| TraceError::Jaeger(base(), error.without_url()))?;
        let chunks = serde_json::Deserializer::from_slice(&body).into_iter::<Chunk>();
        let chunks = chunks.collect::<Result<Vec<_>, _>>();
        let mut chunks = chunks.map_err(|error| TraceError::Unreadable(base(), error))?;
        if let Some(error) = chunks.iter_mut().find_map(|chunk| chunk.error.take()) {
            return Err(TraceError::Failed(base(), error));
        }
        Ok(chunks.into_iter().flat_map(|chunk| chunk.result.resource_spans).flat_map(of_resource).collect())
    }
}

fn of_resource(of: otlp::ResourceSpans) -> impl Iterator<Item = Span> {
    let resource = of.resource.unwrap_or_default();
    let service = attribute(&resource.attributes, "service.name").unwrap_or_default();
    let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans.map(move |otlp| Span {
        service: service.clone(),
        trace_id: hex(&otlp.trace_id),
        span_id: hex(&otlp.span_id),
        parent_span_id: hex(&otlp.parent_span_id),
        otlp,
    })
}

fn write_trace(text: &mut String, id: &str, spans: &[Span]) {
    let Some(first) = spans.first() else { return };
    let end = spans.iter().map(|span| span.otlp.end_time_unix_nano).max().unwrap_or_default();
    let _ = writeln!(
        text,
        "\nTrace {id}, {} spans, {}\n",
        spans.len(),
        milliseconds(end.saturating_sub(first.otlp.start_time_unix_nano)).trim_start()
    );
    let known: HashSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut children: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in spans {
        // A parent that is not there was never sent, or is the client's.
        let parent = Some(span.parent_span_id.as_str()).filter(|parent| known.contains(parent));
        children.entry(parent.unwrap_or_default()).or_default().push(span);
    }
    let mut left: Vec<(&Span, usize)> =
        children.get("").into_iter().flatten().rev().map(|span| (*span, 0)).collect();
    while let Some((span, depth)) = left.pop() {
        write_span(text, span, depth, first.otlp.start_time_unix_nano);
        // Removed, so that no circle is walked twice.
        let below = children.remove(span.span_id.as_str()).unwrap_or_default();
        left.extend(below.into_iter().rev().map(|span| (span, depth + 1)));
    }
}

fn write_span(text: &mut String, span: &Span, depth: usize, begin: u64) {
    let name = format!("{}{}", "  ".repeat(depth), span.otlp.name);
    let took = span.otlp.end_time_unix_nano.saturating_sub(span.otlp.start_time_unix_nano);
    let mut notes = Vec::new();
    notes.extend(span.attribute("http.response.status_code"));
    notes.extend(span.attribute("eventboard.reply.status"));
    notes.extend(span.attribute("eventboard.problem"));
    notes.extend(span.attribute("retry.attempt").map(|attempt| format!("attempt {attempt}")));
    if let Some(original) = span.attribute("idempotency.original_correlation_id") {
        notes.push(format!("given again, first answered to {original}"));
    }
    if span.otlp.status.as_ref().is_some_and(|status| status.code == otlp::status::StatusCode::Error as i32) {
        notes.push("failed".to_owned());
    }
    let line = format!(
        "  {} {}  {:<14} {name:<44} {}",
        milliseconds(span.otlp.start_time_unix_nano.saturating_sub(begin)),
        milliseconds(took),
        span.service,
        notes.join(", ")
    );
    let _ = writeln!(text, "{}", line.trim_end());
}

#[allow(clippy::cast_precision_loss, reason = "a duration that is shown to a tenth of a millisecond")]
fn milliseconds(nanoseconds: u64) -> String {
    format!("{:>8.1} ms", nanoseconds as f64 / 1e6)
}
