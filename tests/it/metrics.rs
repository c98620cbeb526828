//! What is counted: every figure that dashboards and alerts ask for exists, and no label carries an id.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::harness::compose;
use crate::harness::process::Runner;
use crate::harness::walkthrough::Visitor;

/// What the exporter beside the broker and Prometheus itself count, with the labels of theirs that are asked for.
const FOREIGN: [(&str, &[&str]); 8] = [
    ("up", &[]),
    ("gnatsd_varz_connections", &[]),
    ("gnatsd_varz_in_msgs", &[]),
    ("gnatsd_varz_mem", &[]),
    ("gnatsd_varz_out_msgs", &[]),
    ("gnatsd_varz_slow_consumers", &[]),
    ("jetstream_stream_total_bytes", &["stream_name"]),
    ("jetstream_stream_total_messages", &["stream_name"]),
];

/// Labels that Prometheus gives to everything it fetches.
const FETCHED: [&str; 2] = ["job", "instance"];

/// Labels that a metric has in bad times only.
const LATER: [(&str, &[&str]); 4] = [
    ("messaging_client_operation_duration_seconds_count", &["error_type"]),
    ("db_client_operation_duration_seconds_count", &["error_type"]),
    ("eventboard_retries_total", &["subject", "reason"]),
    ("eventboard_rejections_total", &["service", "reason"]),
];

/// Every label there may be. What a client sends is not among their values.
const LABELS: [&str; 28] = [
    "client",
    "cpu_mode",
    "db_client_connection_pool_name",
    "db_client_connection_state",
    "db_collection_name",
    "db_operation_name",
    "db_system_name",
    "disk_io_direction",
    "error_type",
    "eventboard_outcome",
    "http_request_method",
    "http_response_status_code",
    "http_route",
    "le",
    "messaging_destination_name",
    "messaging_operation_name",
    "messaging_system",
    "otel_scope_name",
    "otel_scope_schema_url",
    "otel_scope_version",
    "process_context_switch_type",
    "reason",
    "service",
    "subject",
    "to",
    "tokio_worker_index",
    "service_name",
    "service_version",
];

/// One line of a page of metrics.
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
}

/// Reads `name{label="value",…} number`.
fn sample(line: &str) -> Sample {
    let (series, _) = line.rsplit_once(' ').expect("a number");
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    for pair in rest.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty()) {
        let (label, value) = pair.split_once("=\"").expect("a label");
        labels.insert(label.to_owned(), value.trim_end_matches('"').to_owned());
    }
    Sample { name: name.to_owned(), labels }
}

/// Does something of everything, some of it oddly, and returns what the system has counted.
async fn samples() -> Vec<Sample> {
    let directory = tempfile::tempdir().unwrap();
    let system = Runner::start(directory.path(), &[]).await;
    let (client, http) = (Client::new(), system.ready.http.clone());
    let visitor = Visitor::new(&http);
    let walked = visitor.walk().await;
    let wrong = json!({ "email": "user@acme.com", "password": "wrong password" });
    assert_eq!(visitor.post("/auth/login", "", &wrong).await.0, 401);
    for path in ["/nowhere/0190a9c6-7b7e-7cc0-a3f1-5c7a52f1c0de", "/events/someone@example.com", "/events/x"]
    {
        assert_eq!(visitor.get(path, &walked.token).await.0, 404);
    }
    let odd = client.request(Method::from_bytes(b"ODDITY").unwrap(), format!("{http}/events"));
    assert_eq!(odd.send().await.unwrap().status(), 405);
    let nats = async_nats::connect(&system.ready.nats).await.unwrap();
    nats.request("events.get", r#"{"id":"0190a9c6-7b7e-7cc0-a3f1-5c7a52f1c0de"}"#.into()).await.unwrap();
    let page = client.get(format!("{}/metrics", system.ready.admin["gateway"])).send().await.unwrap();
    let page = page.text().await.unwrap();
    page.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// The queries of every dashboard and alert, by where each stands.
fn queries() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/observability");
    let mut queries = Vec::new();
    for file in std::fs::read_dir(root.join("dashboards")).unwrap() {
        let path = file.unwrap().path();
        let board: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place = format!("{}: {}", path.display(), panel["title"]);
                queries.push((place, target["expr"].as_str().unwrap().to_owned()));
            }
        }
    }
    assert!(queries.len() > 40, "only {} queries", queries.len());
    for (alert, rule) in alerts() {
        queries.push((alert, rule["expr"].as_str().unwrap().to_owned()));
    }
    queries
}

fn alerts() -> Vec<(String, Value)> {
    let file = compose::read("deploy/observability/alerts.yml");
    let rules = file["groups"][0]["rules"].as_array().unwrap();
    rules.iter().map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule.clone())).collect()
}

/// The names in a query that are neither functions nor keywords: metrics and labels.
fn names(query: &str) -> BTreeSet<String> {
    let mut quoted = query.split('"');
    let bare: String = std::iter::from_fn(|| {
        let outside = quoted.next();
        quoted.next();
        outside
    })
    .collect();
    let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '$');
    let mut names = BTreeSet::new();
    for (at, word) in bare
        .split(|character| !is_part(character))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - bare.as_ptr() as usize, word))
    {
        let is_function = bare[at + word.len()..].starts_with('(')
            || ["sum", "max", "by", "or"].contains(&word)
            || word.starts_with('$');
        if !is_function && !word.starts_with(|first: char| first.is_ascii_digit()) {
            names.insert(word.to_owned());
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_names_what_exists_and_no_label_carries_an_id() {
    let samples = samples().await;
    let mut metrics: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Sample { name, labels } in &samples {
        metrics.entry(name).or_default().extend(labels.keys().map(String::as_str));
    }
    for (name, labels) in FOREIGN.iter().chain(&LATER) {
        metrics.entry(name).or_default().extend(*labels);
    }
    let mut missing = Vec::new();
    for (place, query) in queries() {
        let names = names(&query);
        let asked = || names.iter().filter_map(|name| metrics.get(name.as_str()));
        assert!(asked().next().is_some(), "{place} asks for nothing that exists: {query}");
        let unknown = names.iter().map(String::as_str).filter(|name| {
            !metrics.contains_key(name)
                && !FETCHED.contains(name)
                && !asked().any(|labels| labels.contains(name))
        });
        missing.extend(unknown.map(|name| format!("{place}: {name} in {query}")));
    }
    assert!(missing.is_empty(), "neither metrics nor labels of one: {missing:#?}");

    for Sample { name, labels } in &samples {
        for (label, value) in labels {
            assert!(LABELS.contains(&label.as_str()), "{name} has the label {label}");
            let hexadecimal = value.chars().filter(char::is_ascii_hexdigit).count();
            let is_id =
                uuid::Uuid::try_parse(value).is_ok() || (hexadecimal >= 16 && hexadecimal == value.len());
            assert!(!is_id && !value.contains(['@', ' ']), "{name}: {label} is {value}");
            assert!(!value.contains("_INBOX") && !value.contains("ODDITY"), "{name}: {label} is {value}");
        }
    }
    let of = |wanted: &str, label: &str| -> BTreeSet<&str> {
        let matching = samples.iter().filter(|sample| sample.name == wanted);
        matching.filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect()
    };
    let routes = of("http_server_request_duration_seconds_count", "http_route");
    assert!(routes.contains("/events/{id}") && routes.contains("<unmatched>"), "{routes:?}");
    assert!(of("http_server_request_duration_seconds_count", "http_request_method").contains("_OTHER"));
    let ended = of("eventboard_idempotency_outcomes_total", "eventboard_outcome");
    assert!(ended.is_superset(&BTreeSet::from(["executed", "replayed"])), "{ended:?}");
    let tried = of("eventboard_password_attempts_total", "eventboard_outcome");
    assert_eq!(tried, BTreeSet::from(["right", "wrong"]));
    assert_eq!(
        of("db_client_operation_duration_seconds_count", "db_system_name"),
        BTreeSet::from(["nats_kv", "sqlite"])
    );
    assert!(samples.len() < 5000, "{} series", samples.len());
}

#[test]
fn every_alert_has_its_line_in_the_handbook() {
    let handbook = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md"));
    let handbook = handbook.unwrap();
    let alerts = alerts();
    assert!(alerts.len() >= 10);
    for (alert, rule) in alerts {
        assert!(handbook.contains(&format!("| `{alert}` |")), "{alert} is not in docs/operations.md");
        assert!(
            rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string(),
            "{alert}"
        );
    }
}

#[test]
fn names_are_found_in_queries() {
    let query =
        r#"sum by (le, a_label) (rate(a_metric_bucket{other="x",reg=~"5.."}[$__rate_interval])) > 0.5"#;
    let expected = ["a_label", "a_metric_bucket", "le", "other", "reg"].map(str::to_owned);
    assert_eq!(names(query), BTreeSet::from(expected));
}
