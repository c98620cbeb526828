//! A worker that dies at any point of a keyed write: whoever repeats it finds one effect and one answer.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::compose::{Compose, Service};
use crate::harness::process::program;
use crate::harness::stack::{Stack, USER};
use crate::harness::system::event;
use crate::harness::walkthrough::Visitor;
use crate::harness::{Database, eventually, on_both_databases};

on_both_databases!(
    wherever_a_worker_dies_a_repeated_write_has_one_effect,
    an_owner_that_wakes_up_after_its_lease_has_no_second_effect,
    a_caller_that_stops_waiting_does_not_stop_a_commit,
);

/// Every point of a write at which the worker can die, and whether the effect is there by then.
const POINTS: [(&str, bool); 8] = [
    ("lease-sent", false),
    ("claimed", false),
    ("effect-done", false),
    ("answer-kept", false),
    ("committed", true),
    ("completing", true),
    ("completed", true),
    ("before-reply", true),
];

/// An answer's status, headers that matter, and bytes.
type Seen = (u16, Option<String>, String);

/// Everything but the events workers, and somebody who writes.
struct Stage {
    compose: Compose,
    /// What events workers are told besides the composition.
    settings: Vec<(&'static str, String)>,
    http: String,
    token: String,
    client: Client,
    _services: [Service; 2],
    _directory: TempDir,
}

impl Stage {
    async fn set(database: Database) -> Self {
        let compose = Compose::start().await;
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Vec::new();
        if database == Database::Sqlite {
            settings.push(("EVENTBOARD_DATA_DIR", directory.path().to_str().unwrap().to_owned()));
        }
        assert!(compose.run("provision").await);
        let services = [compose.up("auth-worker").await, compose.up("gateway").await];
        let http = services[1].http().await;
        let token = Visitor::new(&http).login("user@techinnovators.com").await;
        let client = Client::new();
        Self { compose, settings, http, token, client, _services: services, _directory: directory }
    }

    /// A worker that fails where `failpoints` say.
    async fn failing_worker(&self, failpoints: &str) -> Service {
        self.compose.up_failing("events-worker", failpoints, &self.settings).await
    }
}

async fn create(client: &Client, http: &str, token: &str, point: &str) -> Seen {
    let request = client.post(format!("{http}/events")).bearer_auth(token).json(&event(point));
    let answer = request.header("Idempotency-Key", point).send().await.unwrap();
    let replayed =
        answer.headers().get("idempotent-replayed").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), replayed, answer.text().await.unwrap())
}

async fn wherever_a_worker_dies_a_repeated_write_has_one_effect(database: Database) {
    let stage = Stage::set(database).await;
    let Stage { compose, settings, http, token, client, .. } = &stage;
    let visitor = Visitor::new(http);

    for (point, _) in POINTS {
        let mut worker = stage.failing_worker(&format!("{point}=return")).await;
        let (sender, http, token) = (client.clone(), http.clone(), token.clone());
        // Nobody waits for its answer: the worker is dead long before the gateway gives up.
        let request = tokio::spawn(async move { create(&sender, &http, &token, point).await });
        let status = worker.process.status().await;
        assert!(!status.success(), "the worker outlived {point}: {status:?}");
        request.abort();
    }

    let _worker = compose.up_as("events-worker", &program("events-worker").await, settings).await;
    let retries = POINTS.map(|(point, committed)| async move {
        let patience = Instant::now() + Duration::from_secs(40);
        let mut refused = 0;
        loop {
            let (status, replayed, body) = create(client, http, token, point).await;
            match status {
                201 => {
                    assert_eq!(replayed.is_some(), committed, "{point}: {body}");
                    break (point, refused, body);
                }
                409 | 503 => refused += 1,
                _ => panic!("{point}: {status} {body}"),
            }
            assert!(!committed, "{point} had taken effect, and its answer was not found at once: {body}");
            assert!(Instant::now() < patience, "{point} is stuck: {body}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let answers = futures_util::future::join_all(retries).await;
    let mut ids = HashSet::new();
    for (point, _, body) in &answers {
        let (status, replayed, again) = create(client, http, token, point).await;
        assert_eq!((status, replayed.as_deref(), &again), (201, Some("true"), body), "{point}");
        let event: Value = serde_json::from_str(body).unwrap();
        let id = event["id"].as_str().unwrap();
        ids.insert(id.to_owned());
        let (status, _, history) = visitor.get(&format!("/events/{id}/history"), token).await;
        assert_eq!((status, history["data"].as_array().map(Vec::len)), (200, Some(1)), "{point}: {history}");
    }
    // No effect but these eight: whatever else there is, nobody was told of.
    let mut found = HashSet::new();
    let (_, _, page) = visitor.get("/events?limit=100", token).await;
    for event in page["data"].as_array().unwrap() {
        if POINTS.iter().any(|(point, _)| event["title"] == *point) {
            found.insert(event["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(found, ids);
}

/// A connection to the broker as people have it.
/// Records in the bucket of leases.
async fn claims(compose: &Compose) -> u64 {
    let stream = async_nats::jetstream::new(compose.nats("ops").await).get_stream("KV_idempotency").await;
    stream.map_or(0, |stream| stream.cached_info().state.messages)
}

async fn a_caller_that_stops_waiting_does_not_stop_a_commit(database: Database) {
    let mut stage = Stage::set(database).await;
    // Its own commits at the start need not stall.
    stage.settings.push(("EVENTBOARD_DEMO", "false".to_owned()));
    let Stage { compose, http, token, client, .. } = &stage;
    let _worker = stage.failing_worker("commit-stalls=return").await;
    // Behind the worker's own cleaning, which holds SQLite's only writer for as long.
    assert_eq!(create(client, http, token, "patient").await.0, 201);
    let nats = compose.nats("ops").await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Authorization", format!("Bearer {token}").as_str());
    headers.insert("Idempotency-Key", "impatient");
    headers.insert("X-Budget-Ms", "700");
    let event = event("impatient");
    let reply = nats.request_with_headers("events.create", headers, event.to_string().into()).await.unwrap();
    let problem: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!((&problem["status"], &problem["outcome"]), (&json!(504), &json!("unknown")), "{problem}");
    // Whoever asks again is given the answer nobody waited for.
    let mut answer = create(client, http, token, "impatient").await;
    let patience = Instant::now() + Duration::from_secs(8);
    while answer.0 == 409 && Instant::now() < patience {
        answer = create(client, http, token, "impatient").await;
    }
    assert_eq!((answer.0, answer.1.as_deref()), (201, Some("true")), "{answer:?}");
}

async fn an_owner_that_wakes_up_after_its_lease_has_no_second_effect(database: Database) {
    let stage = Stage::set(database).await;
    let Stage { compose, settings, http, token, client, .. } = &stage;
    let visitor = Visitor::new(http);

    // Long enough to be stopped between its claim and its transaction.
    let sleeper = stage.failing_worker("claimed=sleep(4000)").await;
    let (sender, url, bearer) = (client.clone(), http.clone(), token.clone());
    let first = tokio::spawn(async move { create(&sender, &url, &bearer, "stalled").await });
    eventually("the write is claimed", || async { claims(compose).await == 1 }).await;
    sleeper.process.signal(Signal::SIGSTOP);

    let worker = compose.up_as("events-worker", &program("events-worker").await, settings).await;
    let mut taken_over = None;
    let patience = Instant::now() + Duration::from_secs(60);
    while taken_over.is_none() {
        assert!(Instant::now() < patience, "nobody took the write over");
        // Requests that the broker hands to the stopped worker are answered by nobody.
        let attempt = create(client, http, token, "stalled");
        if let Ok((201, replayed, body)) = tokio::time::timeout(Duration::from_secs(3), attempt).await {
            assert_eq!(replayed, None);
            taken_over = Some(body);
        }
    }
    assert!(!worker.process.lines_with("took over").is_empty(), "the lease was not taken over");

    sleeper.process.signal(Signal::SIGCONT);
    // It goes on where it was; what it then does must not count. Its own log says when it is through.
    eventually("the late owner has ended its run", || async {
        !sleeper.process.lines_with("\"duration_us\"").is_empty()
    })
    .await;
    let (status, replayed, again) = create(client, http, token, "stalled").await;
    assert_eq!((status, replayed.as_deref(), Some(again)), (201, Some("true"), taken_over));
    let (_, _, page) = visitor.get("/events?limit=100&search=stalled", token).await;
    assert_eq!(page["meta"]["total"], 1, "{page}");
    first.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_whose_worker_dies_before_it_answers_is_given_the_same_successor() {
    let Stack { compose, auth: worker, gateway: _gateway, client, http, .. } = Stack::start(&[]).await;
    let post = async |path: &str, body: Value| {
        let answer = client.post(format!("{http}{path}")).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let credentials = json!({ "email": "user@acme.com", "password": "Password123!" });
    let (_, first) = post("/auth/login", credentials).await;
    assert!(worker.down().await);
    let mut dying = compose.up_failing("auth-worker", "before-reply=return", &[]).await;
    let lost =
        client.post(format!("{http}/auth/refresh")).json(&json!({ "refreshToken": first["refreshToken"] }));
    let lost = tokio::spawn(lost.send());
    assert!(!dying.process.status().await.success(), "the worker outlived its failpoint");
    lost.abort();
    // The rotation is committed: the old token is replaced, and nobody was given the new one.
    let mut database = compose.postgres.connect_to("auth").await;
    let counters: Vec<i64> = sqlx::query_scalar("SELECT counter FROM sessions ORDER BY counter")
        .fetch_all(&mut database)
        .await
        .unwrap();
    assert_eq!(counters.last(), Some(&1), "{counters:?}");
    let _worker = compose.up("auth-worker").await;
    let (status, second) = post("/auth/refresh", json!({ "refreshToken": first["refreshToken"] })).await;
    assert_eq!(status, 200, "{second}");
    let (status, again) = post("/auth/refresh", json!({ "refreshToken": first["refreshToken"] })).await;
    assert_eq!((status, &again["refreshToken"]), (200, &second["refreshToken"]));
    let (status, third) = post("/auth/refresh", json!({ "refreshToken": second["refreshToken"] })).await;
    assert_eq!(status, 200, "{third}");
    let (status, _) = post("/auth/refresh", json!({ "refreshToken": first["refreshToken"] })).await;
    assert_eq!(status, 401, "replaced twice by now");
    let (status, _) = post("/auth/refresh", json!({ "refreshToken": third["refreshToken"] })).await;
    assert_eq!(status, 401, "and with it, the session is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_all_sessions_whose_answer_is_lost_is_unknown_and_not_refused() {
    let Stack { compose, auth: worker, gateway: _gateway, client, http, token, .. } = Stack::start(&[]).await;
    let end_all = async |token: &str| {
        let request = client.post(format!("{http}/auth/logout-all")).bearer_auth(token);
        request.header("Idempotency-Key", "end").send().await.unwrap()
    };
    assert!(worker.down().await);
    let mut dying = compose.up_failing("auth-worker", "before-reply=return", &[]).await;
    // Sent again with the token that it has ended, it would be refused.
    let (answer, _worker) = tokio::join!(end_all(&token), async {
        assert!(!dying.process.ended().await);
        compose.up("auth-worker").await
    });
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.json::<Value>().await.unwrap()["outcome"], "unknown");
    let again = end_all(&Visitor::new(&http).login(USER).await).await;
    assert_eq!(again.status(), 204);
    assert_eq!(again.headers()["idempotent-replayed"], "true");
}
