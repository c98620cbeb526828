//! `eventboard trace`: the story of a request, told from what Jaeger and the database know.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::process::Runner;
use crate::harness::stack::timed;
use crate::harness::system::event;
use crate::harness::walkthrough::Visitor;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const ORIGINAL: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn span(trace: &str, id: &str, parent: &str, name: &str, begun_ms: u64, attributes: &Value) -> Value {
    let attributes: Vec<Value> = attributes
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } }))
        .collect();
    json!({
        "traceId": trace, "spanId": id, "parentSpanId": parent, "name": name, "kind": 2,
        "startTimeUnixNano": (1_764_000_000_000_u64 + begun_ms).to_string() + "000000",
        "endTimeUnixNano": (1_764_000_000_005_u64 + begun_ms).to_string() + "000000",
        "attributes": attributes, "status": {},
    })
}

fn resource(service: &str, spans: &[Value]) -> Value {
    let name = json!([{ "key": "service.name", "value": { "stringValue": service } }]);
    json!({ "resource": { "attributes": name }, "scopeSpans": [{ "spans": spans }] })
}

/// A Jaeger that knows one request, its repetition's original, and one of somebody else.
fn answer(path: &str) -> String {
    let mine = json!({ "correlation_id": "asked-for" });
    let replay = json!({
        "correlation_id": "asked-for", "idempotency.original_trace_id": ORIGINAL,
        "idempotency.original_correlation_id": "the-first",
    });
    let others = json!({ "correlation_id": "somebody-else" });
    if path.ends_with(ORIGINAL) {
        let span = span(ORIGINAL, "01", "", "POST /original", 0, &json!({ "correlation_id": "the-first" }));
        return json!({ "result": { "resourceSpans": [resource("gateway", &[span])] } }).to_string();
    }
    let gateway = [
        span(TRACE, "0a", "", "POST /events/{id}/submit", 10, &mine),
        span(TRACE, "0b", "0a", "request events.submit", 11, &mine),
    ];
    let worker = [span(TRACE, "0c", "0b", "process events.submit", 12, &replay)];
    let foreign = [span("99f92f3577b34da6a3ce929d0e0e4799", "0d", "", "GET /theirs", 12, &others)];
    // In two pieces, as a stream comes.
    let first = json!({ "result": { "resourceSpans": [resource("gateway", &gateway)] } });
    let second = json!({ "result": { "resourceSpans": [resource("events-worker", &worker), resource("gateway", &foreign)] } });
    format!("{first}\n{second}")
}

type Asked = Arc<Mutex<Vec<Vec<(String, String)>>>>;

/// Listens as Jaeger does, in today's spelling or the one before 2.19.
async fn jaeger(old: bool) -> (SocketAddr, Asked) {
    let asked: Asked = Arc::default();
    let find = move |State(asked): State<Asked>, uri: Uri| async move {
        let url = reqwest::Url::parse(&format!("http://jaeger{uri}")).unwrap();
        let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let has = |name: &str| query.iter().any(|(key, value)| key == name && !value.is_empty());
        let (service, time) = if old {
            ("query.service_name", "query.start_time_min")
        } else {
            ("query.serviceName", "query.startTimeMin")
        };
        let known = has(service) && has(time) && (old || has("query.searchDepth"));
        asked.lock().unwrap().push(query);
        if known { (StatusCode::OK, answer("")) } else { (StatusCode::BAD_REQUEST, "{}".to_owned()) }
    };
    let routes = Router::new()
        .route("/api/v3/traces", get(find))
        .route(&format!("/api/v3/traces/{ORIGINAL}"), get(|| async { answer(ORIGINAL) }))
        .with_state(Arc::clone(&asked));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (address, asked)
}

/// Runs the command and returns whether it is content, and what it printed.
async fn trace(id: &str, jaeger: SocketAddr, data_dir: &Path) -> (bool, String) {
    let command = tokio::process::Command::new(env!("CARGO_BIN_EXE_eventboard"))
        .args(["trace", id, "--jaeger", &format!("http://{jaeger}")])
        .env_clear()
        .env("EVENTBOARD_DATA_DIR", data_dir)
        .output();
    let output = command.await.unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_is_a_tree_of_spans_and_what_was_changed() {
    let directory = tempfile::tempdir().unwrap();
    let system = Runner::start(directory.path(), &[]).await;
    let http = &system.ready.http;
    let token = Visitor::new(http).login("user@acme.com").await;
    let create =
        reqwest::Client::new().post(format!("{http}/events")).bearer_auth(&token).json(&event("Told"));
    let created = timed(create.header("X-Correlation-ID", "asked-for")).await;
    assert_eq!(created.status, 201);
    let event = created.body["id"].as_str().unwrap();
    for old in [false, true] {
        let (address, asked) = jaeger(old).await;
        let (content, told) = trace("asked-for", address, directory.path()).await;
        assert!(content, "{told}");
        let order = [
            &format!("Trace {ORIGINAL}"),
            "POST /original",
            &format!("Trace {TRACE}, 3 spans, 7.0 ms"),
            "gateway        POST /events/{id}/submit",
            "gateway          request events.submit",
            "events-worker      process events.submit",
            "given again, first answered to the-first",
            "Changed under this id",
            &format!("created event {event}: nothing → DRAFT"),
        ];
        let mut rest = told.as_str();
        for part in order {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part} is missing in\n{told}"));
            rest = &rest[at + part.len()..];
        }
        assert!(!told.contains("theirs") && !told.contains("Told"), "{told}");
        let filter = ("query.attributes".to_owned(), r#"{"correlation_id":"asked-for"}"#.to_owned());
        assert!(asked.lock().unwrap().iter().any(|query| query.contains(&filter)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (content, told) = trace("asked-for", nobody, empty.path()).await;
    assert!(!content);
    assert!(told.contains(&format!("Jaeger at http://{nobody} cannot be reached")), "{told}");
    assert!(told.contains("there is no database at"), "{told}");
    // One that knows nothing is not silent, and yet there is no story.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new()).await.unwrap() });
    let (content, told) = trace("asked-for", address, empty.path()).await;
    assert!(!content && told.contains("knows of no span"), "{told}");
    let malformed =
        tokio::process::Command::new(env!("CARGO_BIN_EXE_eventboard")).args(["trace", "a b"]).output();
    let malformed = malformed.await.unwrap();
    assert!(!malformed.status.success());
    assert!(String::from_utf8_lossy(&malformed.stderr).contains("1 to 128 letters"));
}
