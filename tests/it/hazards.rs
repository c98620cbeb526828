//! The broker client's known hazards, each shown on a real nats-server, each with its cure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::events::Get;
use contract::{CorrelationId, Description, Timestamp};
use futures_util::StreamExt;
use messaging::NatsSettings;
use messaging::{Call, CallError, Connection, RequestClient};
use nats_server::Broker;
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::harness::process::Runner;
use crate::harness::system::event;
use crate::harness::walkthrough::Visitor;
use crate::harness::{System, broker, eventually};

/// A broker and a caller, without any worker.
struct Bare {
    broker: Broker,
    connection: Connection,
    caller: RequestClient,
    directory: TempDir,
}

impl Bare {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let broker = broker::start(directory.path(), None).await;
        let connection = Connection::open(&NatsSettings::at(broker.url()), "test").await.unwrap();
        let caller = RequestClient::start(connection.clone()).await.unwrap();
        Self { broker, connection, caller, directory }
    }

    async fn call(&self, patience: Duration) -> Result<messaging::Reply, CallError> {
        self.caller.call(&Description::of::<Get>(), &call(patience), 1, Bytes::from_static(b"{}")).await
    }

    /// Somebody on the subject, who may or may not answer.
    async fn listener(&self) -> async_nats::Subscriber {
        let client = async_nats::connect(self.broker.url()).await.unwrap();
        let listener = client.subscribe("events.get").await.unwrap();
        // A round trip: `flush` only says that the bytes left.
        assert!(client.request("nobody.listens", Bytes::new()).await.is_err());
        listener
    }
}

fn call(patience: Duration) -> Call {
    Call {
        correlation_id: CorrelationId::mint(),
        deadline: Instant::now() + patience,
        authorization: None,
        idempotency_key: None,
        if_match: None,
        if_none_match: None,
        client_network: None,
    }
}

/// Publishes a message whose header holds a bare CR, which no client library would send.
async fn publish_bare_cr(broker: &Broker, subject: &str) {
    let mut raw = tokio::net::TcpStream::connect(("127.0.0.1", broker.port())).await.unwrap();
    let head = "NATS/1.0\r\nX-Bad: a\rb\r\n\r\n";
    let message = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nHPUB {subject} _INBOX.x {} {}\r\n{head}{{}}\r\nPING\r\n",
        head.len(),
        head.len() + 2
    );
    raw.write_all(message.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("PONG") {
        let mut chunk = [0; 4096];
        let read = raw.read(&mut chunk).await.unwrap();
        assert!(read > 0, "the broker refused the message: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&chunk[..read]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_cr_in_a_header_ends_the_worker_instead_of_leaving_it_deaf() {
    let mut system = System::start().await;
    let user = system.login("user@acme.com", "Password123!").await;
    publish_bare_cr(&system.broker, "events.get").await;
    let ended = tokio::time::timeout(Duration::from_secs(5), system.worker_ended("events-worker")).await;
    let error = ended.expect("the worker notices").expect_err("a deaf worker must not end well");
    assert!(error.to_string().contains("restarted"), "{error:#}");
    system.start_worker("events-worker").await;
    system.get("/events", &user.token).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_cr_in_a_reply_breaks_the_caller_where_it_shows() {
    let bare = Bare::start().await;
    let mut listener = bare.listener().await;
    let broken = async {
        let request = listener.next().await.unwrap();
        publish_bare_cr(&bare.broker, &request.reply.unwrap()).await;
        tokio::time::timeout(Duration::from_secs(5), bare.caller.broken()).await
    };
    let (reply, broken) = tokio::join!(bare.call(Duration::from_secs(10)), broken);
    assert_eq!(reply.unwrap_err(), CallError::ConnectionLost);
    assert!(broken.is_ok(), "the caller does not notice that it is deaf");
    assert_eq!(bare.call(Duration::from_secs(1)).await.unwrap_err(), CallError::NotConnected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_made_while_disconnected_fails_at_once_and_is_never_sent() {
    let mut bare = Bare::start().await;
    bare.broker.signal(Signal::SIGKILL);
    bare.broker.ended().await;
    eventually("the loss is noticed", || async { !bare.connection.is_connected() }).await;
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(bare.call(Duration::from_secs(5)).await.unwrap_err(), CallError::NotConnected);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "it waited {:?}", begun.elapsed());

    let port = bare.broker.port();
    bare.broker = broker::start(bare.directory.path(), Some(port)).await;
    let mut listener = bare.listener().await;
    eventually("the link is back", || async { bare.caller.is_ready() }).await;
    let marker = call(Duration::from_millis(300));
    let operation = Description::of::<Get>();
    let (_, first) = tokio::join!(
        bare.caller.call(&operation, &marker, 1, Bytes::from_static(b"marker")),
        listener.next()
    );
    assert_eq!(first.unwrap().payload, "marker", "a request outlived its caller");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_fail_when_the_broker_dies() {
    let mut bare = Bare::start().await;
    let mut listener = bare.listener().await;
    let begun = Instant::now();
    let kill = async {
        listener.next().await.unwrap();
        bare.broker.signal(Signal::SIGKILL);
    };
    let operation = Description::of::<Get>();
    let patient = call(Duration::from_secs(30));
    let (reply, ()) = tokio::join!(bare.caller.call(&operation, &patient, 1, Bytes::new()), kill);
    assert_eq!(reply.unwrap_err(), CallError::ConnectionLost);
    assert!(begun.elapsed() < Duration::from_secs(5), "it waited {:?}", begun.elapsed());
    assert_eq!(bare.caller.in_flight(), 0);
    bare.broker.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_known_at_once() {
    let bare = Bare::start().await;
    let begun = Instant::now();
    assert_eq!(bare.call(Duration::from_secs(5)).await.unwrap_err(), CallError::NoResponders);
    assert!(begun.elapsed() < Duration::from_secs(1), "it waited {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_and_abandoned_requests_leave_nothing_behind() {
    let bare = Arc::new(Bare::start().await);
    let _silent = bare.listener().await;
    let timed_out = (0..200).map(|_| bare.call(Duration::from_millis(50)));
    for reply in futures_util::future::join_all(timed_out).await {
        assert_eq!(reply.unwrap_err(), CallError::TimedOut);
    }
    assert_eq!(bare.caller.in_flight(), 0);
    for _ in 0..50 {
        let abandoned = bare.call(Duration::from_secs(30));
        assert!(tokio::time::timeout(Duration::from_millis(2), abandoned).await.is_err());
    }
    assert_eq!(bare.caller.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_and_incomplete_replies_confuse_nobody() {
    let bare = Bare::start().await;
    let client = async_nats::connect(bare.broker.url()).await.unwrap();
    let mut listener = bare.listener().await;
    let answer = async {
        let late = listener.next().await.unwrap();
        let next = listener.next().await.unwrap();
        client.publish(late.reply.unwrap(), "late".into()).await.unwrap();
        client.publish(next.reply.unwrap(), "without a status".into()).await.unwrap();
    };
    let calls = async {
        assert_eq!(bare.call(Duration::from_millis(50)).await.unwrap_err(), CallError::TimedOut);
        assert_eq!(bare.call(Duration::from_secs(5)).await.unwrap_err(), CallError::MalformedReply);
    };
    tokio::join!(answer, calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_whose_caller_has_given_up_is_not_begun() {
    let system = System::start().await;
    let admin = system.found_organization().await;
    let bearer = format!("Bearer {}", admin.token);
    let now = Timestamp::now().unix_millis();
    let send = async |name: &str, value: i64| {
        let headers = [("Authorization", bearer.as_str()), (name, &value.to_string())];
        system.message("events.create", &event("Expired").to_string(), &headers).await
    };
    assert_eq!(send("X-Budget-Ms", 0).await.expect(504).problem(), "deadline-exceeded");
    let late = send("X-Deadline-Ms", now - 1).await.expect(504);
    assert_eq!(late.header("x-executed"), "false");
    // As old as a message that waited two minutes in a queue.
    send("X-Deadline-Ms", now - 120_000).await.expect(504);
    let listed = system.get("/events", &admin.token).await.expect(200);
    assert_eq!(listed.body["data"], json!([]));
    send("X-Deadline-Ms", now + 5_000).await.expect(201);
    // A clock that is an hour ahead says nothing.
    send("X-Deadline-Ms", now + 3_600_000).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_command_subjects_keeps_the_worker_from_starting() {
    let mut system = System::start().await;
    system.stop_worker("events-worker").await;
    let jetstream = async_nats::jetstream::new(system.nats.clone());
    let config = async_nats::jetstream::stream::Config {
        name: "GREEDY".to_owned(),
        subjects: vec!["events.create".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let config = events_worker::Config {
        admin: "127.0.0.1:0".parse().unwrap(),
        nats: NatsSettings::at(system.broker.url()),
        database: database::DatabaseSettings::at(None),
        data_dir: system.directory().to_owned(),
        demo: false,
        env: settings::Environment::Development,
    };
    let refused =
        <events_worker::EventsWorker as service::Process>::run(config, Box::new(|_| {}), Default::default())
            .await
            .unwrap_err();
    assert!(format!("{refused:#}").contains("GREEDY"), "{refused:#}");
    jetstream.delete_stream("GREEDY").await.unwrap();
    system.start_worker("events-worker").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_comes_over_command_subjects_is_waited_past_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let runner = Runner::start(directory.path(), &[("EVENTBOARD_HTTP", "127.0.0.1:0")]).await;
    let visitor = Visitor::new(&runner.ready.http);
    let token = visitor.login("user@acme.com").await;
    let client = async_nats::connect(&runner.ready.nats).await.unwrap();
    let jetstream = async_nats::jetstream::new(client.clone());
    for (subjects, storage) in [
        (vec!["events.>".to_owned()], async_nats::jetstream::stream::StorageType::Memory),
        (vec!["events.*".to_owned(), "auth.me".to_owned()], async_nats::jetstream::stream::StorageType::File),
    ] {
        let config = async_nats::jetstream::stream::Config {
            name: "GREEDY".to_owned(),
            subjects,
            storage,
            // Refused, it acknowledges with an error.
            max_messages: 5,
            discard: async_nats::jetstream::stream::DiscardPolicy::New,
            ..Default::default()
        };
        jetstream.create_stream(config).await.unwrap();
        for _ in 0..10 {
            visitor.create(&token).await;
            let (status, _, body) = visitor.get("/events", &token).await;
            assert_eq!(status, 200, "{body}");
        }
        let health = async || visitor.get("/health", &token).await.2;
        for check in ["replies", "events-subjects"] {
            eventually("the stream is named in the health", || async {
                let health = health().await;
                let detail = health["checks"][check]["detail"].as_str().unwrap_or("");
                health["status"] == "warn" && detail.contains("GREEDY")
            })
            .await;
        }
        assert!(
            runner.lines_with("GREEDY").iter().any(|line| line["level"] == "ERROR"),
            "no line names the stream"
        );
        jetstream.delete_stream("GREEDY").await.unwrap();
        eventually("all is well again", || async { health().await["status"] == "pass" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_answers_what_it_has_taken() {
    let mut system = System::start().await;
    let credentials = json!({ "email": "user@acme.com", "password": "Password123!" });
    let request = system.request(reqwest::Method::POST, "/auth/login", None).json(&credentials);
    let logins: Vec<_> = (0..40).map(|_| tokio::spawn(request.try_clone().unwrap().send())).collect();
    // Some are answered, some are being hashed, some wait.
    tokio::time::sleep(Duration::from_millis(100)).await;
    system.stop_worker("auth-worker").await;
    let mut answered = 0;
    for login in logins {
        let status = login.await.unwrap().unwrap().status().as_u16();
        // Logins to one account wait for each other, on a slow machine for longer than they may.
        assert!(matches!(status, 200 | 429 | 503), "a request was dropped: {status}");
        answered += u32::from(status == 200);
    }
    assert!(answered > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_broker_is_survived_without_restarting_anything() {
    let mut system = System::start().await;
    let user = system.login("user@acme.com", "Password123!").await;
    system.broker.signal(Signal::SIGKILL);
    system.broker.ended().await;
    eventually("the gateway answers 503", || async {
        system.get("/events", &user.token).await.status == 503
    })
    .await;
    assert_eq!(system.get("/readyz", "").await.status, 503);
    let (directory, port) = (system.directory().join("nats"), system.broker.port());
    // Everything the broker had stored is gone, too.
    std::fs::remove_dir_all(directory.join("jetstream")).unwrap();
    system.broker = broker::start(&directory, Some(port)).await;
    eventually("requests work again", || async { system.get("/events", &user.token).await.status == 200 })
        .await;
    // Each service finds the broker again in its own time.
    eventually("logins work again", || async { system.get("/auth/me", &user.token).await.status == 200 })
        .await;
    system.login("user@acme.com", "Password123!").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_a_broker_that_is_gone() {
    let mut system = System::start().await;
    system.broker.signal(Signal::SIGKILL);
    system.broker.ended().await;
    eventually("the loss is noticed", || async { system.get("/readyz", "").await.status == 503 }).await;
    let stopped = async {
        system.stop_worker("events-worker").await;
        system.stop_worker("auth-worker").await;
        system.stop_gateway().await;
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), stopped).await.is_ok(), "it waits for the broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_ends_takes_its_connections_along() {
    let (listener, address) = service::listen("127.0.0.1:0".parse().unwrap(), "TEST").await.unwrap();
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
    let (header_timeout, idle_timeout) = (Duration::from_secs(30), Duration::from_secs(75));
    let limits = service::http::Limits { header_timeout, idle_timeout, max_connections: 8 };
    let serving = tokio::spawn(service::http::serve(listener, router, limits, Default::default()));
    let mut kept = tokio::net::TcpStream::connect(address).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 1024];
    assert!(kept.read(&mut answer).await.unwrap() > 0);
    serving.abort();
    let ended = tokio::time::timeout(Duration::from_secs(5), kept.read(&mut answer)).await;
    assert_eq!(ended.expect("the connection ends").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_end_at_their_deadline_while_the_broker_takes_nothing() {
    let bare = Bare::start().await;
    let _silent = bare.listener().await;
    bare.broker.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    // More than the socket's buffers and the library's command channel hold together.
    let payload = Bytes::from(vec![b' '; 64 * 1024]);
    let operation = Description::of::<Get>();
    let caller = &bare.caller;
    let calls = (0..3000).map(|_| {
        let (operation, payload) = (&operation, payload.clone());
        let patient = call(Duration::from_millis(500));
        async move { caller.call(operation, &patient, 1, payload).await }
    });
    for reply in futures_util::future::join_all(calls).await {
        assert!(matches!(reply, Err(CallError::TimedOut | CallError::NotConnected)), "{reply:?}");
    }
    let waited = begun.elapsed();
    bare.broker.signal(Signal::SIGCONT);
    assert!(waited < Duration::from_secs(5), "calls of half a second took {waited:?}");
    assert_eq!(bare.caller.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_a_broker_that_is_not_up_yet() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = broker::start(directory.path(), None).await;
    let (url, port) = (first.url(), first.port());
    first.signal(Signal::SIGKILL);
    first.ended().await;
    let opening = tokio::spawn(async move { Connection::open(&NatsSettings::at(url), "test").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!opening.is_finished(), "it must neither fail nor pretend");
    let _second = broker::start(directory.path(), Some(port)).await;
    let opened = tokio::time::timeout(Duration::from_secs(10), opening).await;
    assert!(opened.expect("it connects").unwrap().unwrap().is_connected());
}
