//! One request, one trace: what a collector is sent, and what the log says of the same request.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::harness::collector::{Collector, Span};
use crate::harness::eventually;
use crate::harness::process::Runner;
use crate::harness::stack::{Stack, timed};
use crate::harness::system::event;
use crate::harness::walkthrough::Visitor;

/// Everything a keyed submission does.
const SUBMIT: [&str; 10] = [
    "POST /events/{id}/submit",
    "request events.submit",
    "process events.submit",
    "put idempotency",
    "SELECT events",
    "UPDATE events",
    "INSERT event_history",
    "INSERT outcomes",
    "COMMIT",
    "complete lease",
];

fn settings(collector: &Collector) -> Vec<(&'static str, String)> {
    collector.environment().to_vec()
}

async fn draft(stack: &Stack) -> String {
    let created = timed(stack.create("Traced")).await;
    assert_eq!(created.status, 201, "{created:?}");
    created.body["id"].as_str().unwrap().to_owned()
}

fn submit(stack: &Stack, id: &str, correlation_id: &str) -> RequestBuilder {
    let request = stack.client.post(format!("{}/events/{id}/submit", stack.http)).bearer_auth(&stack.token);
    request.header("Idempotency-Key", "submit-once").header("X-Correlation-ID", correlation_id)
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    found[0]
}

/// Checks the spans of a keyed submission: whose each is, of which kind, below which other.
fn assert_submission(spans: &[Span], system: &str) {
    let [root, request, process] = SUBMIT[..3] else { unreachable!() };
    let (root, request, process) = (one(spans, root), one(spans, request), one(spans, process));
    for span in spans {
        assert_eq!(span.trace_id, root.trace_id, "{span:?}");
        assert!(span.begun <= span.ended && !span.failed, "{span:?}");
    }
    assert_eq!((root.service.as_str(), root.kind), ("gateway", SpanKind::Server));
    assert_eq!(root.attribute("http.route"), "/events/{id}/submit");
    assert_eq!(root.attribute("http.request.method"), "POST");
    assert_eq!(root.attribute("http.response.status_code"), "200");
    assert!(root.attribute("url.path").ends_with("/submit"), "{root:?}");
    assert_eq!((request.service.as_str(), request.kind), ("gateway", SpanKind::Producer));
    assert_eq!(request.parent, root.id);
    assert_eq!(request.attribute("messaging.system"), "nats");
    assert_eq!(request.attribute("messaging.destination.name"), "events.submit");
    assert_eq!(request.attribute("messaging.operation.type"), "send");
    assert_eq!(request.attribute("retry.attempt"), "1");
    assert_eq!((process.service.as_str(), process.kind), ("events-worker", SpanKind::Consumer));
    assert_eq!(process.parent, request.id);
    assert!(process.links.contains(&(request.trace_id.clone(), request.id.clone())), "{process:?}");
    assert_eq!(process.attribute("messaging.consumer.group.name"), "events");
    assert_eq!(process.attribute("messaging.message.conversation_id"), process.attribute("correlation_id"));
    for name in &SUBMIT[4..9] {
        let statement = spans.iter().find(|span| span.name == *name).unwrap();
        assert_eq!((statement.service.as_str(), statement.kind), ("events-worker", SpanKind::Client));
        assert_eq!(statement.parent, process.id, "{statement:?}");
        assert_eq!(statement.attribute("db.system.name"), system);
        assert_eq!(statement.attribute("db.query.summary"), *name);
    }
    let look_up = one(spans, "SELECT events");
    assert_eq!(look_up.attribute("db.response.returned_rows"), "1");
    assert!(look_up.attribute("db.query.text").starts_with("SELECT id, "), "{look_up:?}");
    assert_eq!(look_up.attribute("db.collection.name"), "events");
    let mut leases: Vec<&Span> = spans.iter().filter(|span| span.name == "put idempotency").collect();
    leases.sort_by_key(|lease| lease.begun);
    let complete = one(spans, "complete lease");
    assert_eq!((complete.kind, &complete.parent), (SpanKind::Internal, &process.id));
    assert_eq!(leases.iter().map(|lease| &lease.parent).collect::<Vec<_>>(), [&process.id, &complete.id]);
    assert!(process.ended <= root.ended, "the worker seems to be at it after the answer");
    assert!(leases.iter().all(|lease| lease.kind == SpanKind::Client));
    assert!(leases.iter().all(|lease| lease.attribute("db.system.name") == "nats_kv"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_one_trace_over_three_processes_and_its_repetition_links_to_it() {
    let collector = Collector::start().await;
    let settings = settings(&collector);
    let stack = Stack::start(&settings).await;
    let worker = stack.events_worker(&settings).await;
    let id = draft(&stack).await;
    let first = timed(submit(&stack, &id, "trace-first")).await;
    assert_eq!((first.status, first.replayed), (200, false), "{first:?}");
    let spans = collector.request("trace-first", &SUBMIT).await;
    assert_submission(&spans, "postgresql");
    let root = one(&spans, SUBMIT[0]);
    assert_eq!(root.parent, "");
    let strays: Vec<Span> = collector
        .spans()
        .into_iter()
        .filter(|span| span.trace_id == root.trace_id && span.attribute("correlation_id") != "trace-first")
        .collect();
    assert!(strays.is_empty(), "{strays:?}");

    let again = timed(submit(&stack, &id, "trace-again")).await;
    assert_eq!((again.status, again.replayed), (200, true), "{again:?}");
    let repeated = collector.request("trace-again", &SUBMIT[..3]).await;
    let (original, replay) = (one(&spans, SUBMIT[2]), one(&repeated, SUBMIT[2]));
    assert_ne!(replay.trace_id, original.trace_id);
    assert!(replay.links.contains(&(original.trace_id.clone(), original.id.clone())), "{replay:?}");
    assert_eq!(replay.attribute("idempotency.replayed"), "true");
    assert_eq!(replay.attribute("idempotency.original_trace_id"), original.trace_id);
    assert_eq!(replay.attribute("idempotency.original_correlation_id"), "trace-first");
    assert_eq!(original.attribute("idempotency.replayed"), "");
    assert!(!repeated.iter().any(|span| span.name == "UPDATE events"), "{repeated:?}");

    // The lease's record lost: the database knows the same.
    let kept = stack.compose.nats("events-worker").await;
    let lease = kept_leases(&stack).await;
    assert_eq!(lease.len(), 1, "{lease:?}");
    kept.publish(lease[0].clone(), "lost".into()).await.unwrap();
    kept.flush().await.unwrap();
    let third = timed(submit(&stack, &id, "trace-third")).await;
    assert_eq!((third.status, third.replayed), (200, true), "{third:?}");
    let third = collector.request("trace-third", &SUBMIT[..3]).await;
    assert!(one(&third, SUBMIT[2]).links.contains(&(original.trace_id.clone(), original.id.clone())));

    // Two canonical lines for each, with the same ids.
    for (id, replayed) in [("trace-first", false), ("trace-again", true)] {
        let spans = collector.spans_of(id);
        let logs = [
            (&stack.gateway, "gateway", "POST /events/{id}/submit", SUBMIT[0]),
            (&worker, "events-worker", "events.submit", SUBMIT[2]),
        ];
        for (service, name, message, span) in logs {
            let lines = service.process.lines_with(&format!("\"correlation_id\":\"{id}\""));
            let canonical: Vec<&Value> = lines.iter().filter(|line| line["message"] == message).collect();
            assert_eq!(canonical.len(), 1, "{lines:?}");
            let line = canonical[0];
            assert_eq!((&line["service"], &line["correlation_id"]), (&json!(name), &json!(id)));
            assert_eq!((&line["status"], &line["replayed"]), (&json!(200), &json!(replayed)), "{line}");
            assert_eq!(line["span_id"], one(&spans, span).id.as_str());
            assert!(line["duration_us"].as_u64().unwrap() > 0);
            for line in &lines {
                assert_eq!(line["trace_id"], one(&spans, span).trace_id.as_str(), "{line}");
                assert!(line["span_id"].as_str().is_some_and(|id| id.len() == 16), "{line}");
            }
        }
        let lines = worker.process.lines_with(id);
        let mut lines = lines.iter().filter(|line| line["correlation_id"] == id);
        let line = lines.find(|line| line["message"] == "events.submit").unwrap();
        assert_eq!((&line["outcome"], &line["attempt"]), (&json!("ok"), &json!(1)), "{line}");
        assert!(line["queue_wait_ms"].is_u64(), "{line}");
    }
}

/// The subjects under which leases are kept.
async fn kept_leases(stack: &Stack) -> Vec<String> {
    let client = stack.compose.nats("provision").await;
    let asked = client.request("$JS.API.STREAM.INFO.KV_idempotency", r#"{"subjects_filter":">"}"#.into());
    let info: Value = serde_json::from_slice(&asked.await.unwrap().payload).unwrap();
    info["state"]["subjects"].as_object().unwrap().keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_trace_goes_on_and_its_flag_decides_nothing() {
    let collector = Collector::start().await;
    let settings = settings(&collector);
    let stack = Stack::start(&settings).await;
    let _worker = stack.events_worker(&settings).await;
    for (number, flags) in ["00", "01"].into_iter().enumerate() {
        let (trace, parent) = (format!("4bf92f3577b34da6a3ce929d0e0e473{number}"), "00f067aa0ba902b7");
        let id = format!("client-{flags}");
        let request = stack.look_up().header("X-Correlation-ID", &id);
        let request = request.header("traceparent", format!("00-{trace}-{parent}-{flags}"));
        let answer = timed(request.header("baggage", "secret=canary,correlation_id=forged")).await;
        assert_eq!((answer.status, &answer.body["traceId"]), (404, &json!(trace)));
        assert_eq!(answer.body["correlationId"], id.as_str());
        let names = ["GET /events/{id}", "request events.get", "process events.get", "SELECT events"];
        let spans = collector.request(&id, &names).await;
        assert!(spans.iter().all(|span| span.trace_id == trace && !span.text.contains("canary")));
        let root = one(&spans, names[0]);
        assert_eq!((root.parent.as_str(), root.attribute("http.response.status_code")), (parent, "404"));
        // Refused, and no failure of anybody's.
        assert!(spans.iter().all(|span| !span.failed), "{spans:?}");
        assert_eq!(one(&spans, names[2]).attribute("eventboard.problem"), "not-found");
    }
}

/// However long the reply takes to be sent: the work lies within the request that waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_messages_span_ends_before_its_reply_is_sent() {
    let collector = Collector::start().await;
    let settings = settings(&collector);
    let stack = Stack::start(&settings).await;
    let _worker = stack.compose.up_failing("events-worker", "before-reply=sleep(400)", &settings).await;
    let answer = timed(stack.look_up().header("X-Correlation-ID", "reply-later")).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    let spans = collector.request("reply-later", &["GET /events/{id}", "process events.get"]).await;
    let (root, process) = (one(&spans, "GET /events/{id}"), one(&spans, "process events.get"));
    let after = Duration::from_nanos(root.ended.saturating_sub(process.ended));
    assert!(after >= Duration::from_millis(400), "{after:?} after the worker's span");
}

/// What is done, and said, after the deadline of a write belongs to it as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_overtime_keeps_its_span() {
    let collector = Collector::start().await;
    let mut settings = settings(&collector);
    let stack = Stack::start(&settings).await;
    // Its own commits at the start need not stall.
    settings.push(("EVENTBOARD_DEMO", "false".to_owned()));
    let _worker = stack.compose.up_failing("events-worker", "commit-stalls=return", &settings).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Authorization", format!("Bearer {}", stack.token).as_str());
    headers.insert("Idempotency-Key", "overtime");
    headers.insert("X-Correlation-ID", "overtime");
    headers.insert("X-Budget-Ms", "700");
    let nats = stack.compose.nats("ops").await;
    let create = event("Overtime").to_string();
    let reply = nats.request_with_headers("events.create", headers, create.into()).await.unwrap();
    assert_eq!(reply.headers.unwrap().get("Nats-Service-Error-Code").unwrap().as_str(), "504");
    let spans = collector.request("overtime", &["process events.create", "COMMIT"]).await;
    let (process, commit) = (one(&spans, "process events.create"), one(&spans, "COMMIT"));
    assert_eq!((process.attribute("eventboard.reply.status"), process.failed), ("504", true));
    assert_eq!((commit.parent.as_str(), commit.failed), (process.id.as_str(), false));
    assert!(process.ended >= commit.ended, "{process:?} {commit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_shows_two_attempts() {
    let collector = Collector::start().await;
    let stack = Stack::start(&settings(&collector)).await;
    let worker = stack.compose.nats("events-worker").await;
    let mut requests = worker.queue_subscribe("events.get", "events".to_owned()).await.unwrap();
    worker.flush().await.unwrap();
    let answering = async {
        let lost = requests.next().await.unwrap();
        let second = requests.next().await.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("X-Status", "200");
        let reply = second.reply.clone().unwrap();
        worker.publish_with_headers(reply, headers, "{}".into()).await.unwrap();
        [lost, second].map(|message| message.headers.unwrap())
    };
    let request = stack.look_up().header("X-Correlation-ID", "two-attempts");
    let request = request.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    let request = timed(request.header("tracestate", "vendor=1"));
    let (answer, sent) = tokio::join!(request, answering);
    assert_eq!(answer.status, 200, "{answer:?}");
    let spans = collector.request("two-attempts", &["GET /events/{id}"]).await;
    let root = one(&spans, "GET /events/{id}");
    let mut attempts: Vec<&Span> = spans.iter().filter(|span| span.name == "request events.get").collect();
    attempts.sort_by_key(|attempt| attempt.begun);
    assert_eq!(attempts.len(), 2, "{spans:?}");
    for (number, (attempt, headers)) in attempts.iter().zip(&sent).enumerate() {
        assert_eq!(attempt.parent, root.id);
        assert_eq!(attempt.attribute("retry.attempt"), (number + 1).to_string());
        assert_eq!(headers.get("X-Attempt").unwrap().as_str(), (number + 1).to_string());
        let context = format!("00-{}-{}-01", root.trace_id, attempt.id);
        assert_eq!(headers.get("traceparent").unwrap().as_str(), context);
        assert_eq!(headers.get("tracestate").unwrap().as_str(), "vendor=1");
        assert_eq!(headers.get("baggage").unwrap().as_str(), "correlation_id=two-attempts");
    }
    let ends: Vec<&str> = attempts.iter().map(|attempt| attempt.attribute("error.type")).collect();
    assert_eq!((ends, attempts[0].failed, attempts[1].failed), (vec!["cancelled", ""], true, false));
    let lines = stack.gateway.process.lines_with("two-attempts");
    let line = lines.iter().find(|line| line["message"] == "GET /events/{id}").unwrap();
    assert_eq!((&line["attempts"], &line["subject"]), (&json!(2), &json!("events.get")), "{line}");
}

/// A system in one process, with a quiet log.
#[tokio::test(flavor = "multi_thread")]
async fn one_process_sends_the_spans_of_three_services_whatever_it_logs() {
    let collector = Collector::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut environment: Vec<(&str, &str)> = vec![("RUST_LOG", "warn")];
    let own = collector.environment();
    environment.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
    let mut system = Runner::start(directory.path(), &environment).await;
    let (client, http) = (Client::new(), system.ready.http.clone());
    let token = Visitor::new(&http).login("user@acme.com").await;
    let created = client.post(format!("{http}/events")).bearer_auth(&token).json(&event("Traced"));
    let created = timed(created).await.body;
    let submit = client.post(format!("{http}/events/{}/submit", created["id"].as_str().unwrap()));
    let submit = submit.bearer_auth(&token).header("Idempotency-Key", "k").header("X-Correlation-ID", "one");
    assert_eq!(timed(submit).await.status, 200);
    let spans = collector.request("one", &SUBMIT).await;
    assert_submission(&spans, "sqlite");
    let signed_in = ["POST /auth/login", "process auth.login", "password.verify", "put login-throttle"];
    eventually("the login's spans arrive", || async {
        signed_in.iter().all(|name| collector.spans().iter().any(|span| span.name == *name))
    })
    .await;
    let spans = collector.spans();
    let hashing = one(&spans, "password.verify");
    assert_eq!((hashing.service.as_str(), hashing.kind), ("auth-worker", SpanKind::Internal));
    assert!(!hashing.attribute("eventboard.queue_wait_us").is_empty());
    // What belongs to no request makes no span: every trace begins at the gateway.
    let roots: HashSet<&str> =
        spans.iter().filter(|span| span.parent.is_empty()).map(|span| span.service.as_str()).collect();
    assert_eq!(roots, HashSet::from(["gateway"]));
    assert_eq!(system.lines_with("\"level\":\"INFO\""), Vec::<Value>::new());

    // A message that somebody sends by hand begins a trace of its own.
    let nats = async_nats::connect(&system.ready.nats).await.unwrap();
    let reply = nats.request("events.list", "{}".into()).await.unwrap();
    let id = reply.headers.unwrap().get("X-Correlation-ID").unwrap().as_str().to_owned();
    let spans = collector.request(&id, &["process events.list"]).await;
    assert_eq!((spans.len(), spans[0].parent.as_str(), spans[0].links.len()), (1, "", 0));

    // What is still under way to the collector is sent before the end.
    let last = client.get(format!("{http}/events")).bearer_auth(&token).header("X-Correlation-ID", "last");
    assert_eq!(timed(last).await.status, 200);
    system.signal(Signal::SIGTERM);
    assert!(system.ended().await);
    assert_eq!(collector.spans_of("last").len(), 5, "{:?}", collector.spans_of("last"));
}

/// What a collector may do instead of taking spans.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Refuses,
    NeverAnswers,
    Rejects,
}

/// Runs a system whose collector has a fault, and returns how many lines speak of it.
async fn without_a_collector(fault: Fault) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = match fault {
        Fault::Refuses => None,
        Fault::NeverAnswers => Some(tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                taken.push(connection);
            }
        })),
        Fault::Rejects => {
            let nowhere = axum::Router::new();
            Some(tokio::spawn(async move { axum::serve(listener, nowhere).await.unwrap() }))
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_METRICS_EXPORTER", "prometheus,otlp"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("EVENTBOARD_RATE_LIMIT_USER", "off"),
        ("EVENTBOARD_RATE_LIMIT_IP", "off"),
    ];
    let mut system = Runner::start(directory.path(), &environment).await;
    let (client, http) = (Client::new(), system.ready.http.clone());
    let token = Visitor::new(&http).login("user@acme.com").await;
    let until = Instant::now() + Duration::from_secs(5);
    let mut answered = 0;
    while Instant::now() < until {
        let listed = client.get(format!("{http}/events")).bearer_auth(&token);
        assert_eq!(timed(listed).await.status, 200);
        answered += 1;
    }
    assert!(answered > 50, "only {answered}");
    system.signal(Signal::SIGTERM);
    let begun = Instant::now();
    assert!(system.ended().await);
    assert!(begun.elapsed() < Duration::from_secs(6), "it took {:?} to end", begun.elapsed());
    if let Some(serving) = serving {
        serving.abort();
    }
    system.lines_with("\"target\":\"opentelemetry").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_a_few_lines_and_seconds_at_the_end() {
    for fault in [Fault::Refuses, Fault::NeverAnswers, Fault::Rejects] {
        let lines = without_a_collector(fault).await;
        assert!(lines <= 12, "{fault:?}: {lines} lines");
    }
}
