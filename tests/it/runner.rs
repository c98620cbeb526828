//! `cargo run`: the documented walkthrough against the real binary, and what it leaves behind.

use nix::sys::signal::Signal;
use reqwest::Client;

use crate::harness::eventually;
use crate::harness::process::{Runner, is_alive};
use crate::harness::walkthrough::{DOCUMENTED_KEY, Visitor};

#[tokio::test(flavor = "multi_thread")]
async fn the_walkthrough_works_on_a_fresh_start_and_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Runner::start(directory.path(), &[]).await;
    let walked = Visitor::new(&process.ready.http).walk_with(DOCUMENTED_KEY).await;

    eventually("both log lines are written", || async { process.lines_with("test-123").len() >= 2 }).await;
    let lines = process.lines_with("test-123");
    for service in ["gateway", "events-worker"] {
        let found =
            lines.iter().any(|line| line["service"] == service && line["correlation_id"] == "test-123");
        assert!(found, "no line of the {service} in {lines:?}");
    }
    assert!(process.lines_with("Password123!").is_empty() && process.lines_with(&walked.token).is_empty());
    assert!(process.lines_with("user@acme.com").is_empty());

    let broker = process.ready.pids.nats_server.unwrap();
    process.signal(Signal::SIGINT);
    assert!(process.ended().await, "Ctrl-C is a good end");
    assert!(!is_alive(broker), "the broker was left behind");
    assert!(!directory.path().join("ready.json").exists());

    let process = Runner::start(directory.path(), &[]).await;
    let visitor = Visitor::new(&process.ready.http);
    visitor.login("user@acme.com").await;
    visitor.has_walked(&walked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_variables_count_as_not_set_and_a_closed_terminal_ends_it_as_a_signal_does() {
    let directory = tempfile::tempdir().unwrap();
    let empty = [
        "EVENTBOARD_NATS_URL",
        "EVENTBOARD_NATS_USER",
        "EVENTBOARD_NATS_PASSWORD",
        "EVENTBOARD_NATS_PASSWORD_FILE",
        "EVENTBOARD_NATS_CREDS",
        "EVENTBOARD_NATS_CA",
        "EVENTBOARD_HTTP",
        "EVENTBOARD_REPLICAS",
        "EVENTBOARD_ENV",
        "EVENTBOARD_AUTH_DATABASE_URL",
        "EVENTBOARD_EVENTS_DATABASE_URL",
        "EVENTBOARD_DEMO",
        "EVENTBOARD_CORS_ORIGINS",
        "EVENTBOARD_RATE_LIMIT_USER",
        "RUST_LOG",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_TRACES_SAMPLER",
        "OTEL_RESOURCE_ATTRIBUTES",
    ];
    let environment: Vec<_> = empty.iter().map(|name| (*name, "")).collect();
    let mut process = Runner::start(directory.path(), &environment).await;
    Visitor::new(&process.ready.http).login("user@acme.com").await;
    process.signal(Signal::SIGHUP);
    assert!(process.ended().await, "a closed terminal is a good end");
    assert!(!directory.path().join("ready.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_systems_run_side_by_side_and_two_never_share_a_directory() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // At the same moment, so that both want the same ports.
    let (one, two) = tokio::join!(Runner::start(first.path(), &[]), Runner::start(second.path(), &[]));
    assert_ne!((&one.ready.http, &one.ready.nats), (&two.ready.http, &two.ready.nats));
    let client = Client::new();
    for process in [&one, &two] {
        Visitor::new(&process.ready.http).login("admin@acme.com").await;
        for name in ["gateway", "auth-worker", "events-worker"] {
            let admin = &process.ready.admin[name];
            assert_eq!(client.get(format!("{admin}/readyz")).send().await.unwrap().status(), 200);
        }
    }
    let third = tokio::process::Command::new(env!("CARGO_BIN_EXE_eventboard"))
        .env("EVENTBOARD_DATA_DIR", first.path())
        .output()
        .await
        .unwrap();
    assert!(!third.status.success());
    let said = String::from_utf8_lossy(&third.stderr);
    assert!(said.contains("EVENTBOARD_DATA_DIR"), "{said}");
    let taken = one.ready.http.strip_prefix("http://").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let fourth = tokio::process::Command::new(env!("CARGO_BIN_EXE_eventboard"))
        .env("EVENTBOARD_DATA_DIR", directory.path())
        .env("EVENTBOARD_HTTP", taken)
        .output()
        .await
        .unwrap();
    assert!(!fourth.status.success());
    let said = String::from_utf8_lossy(&fourth.stderr);
    assert!(said.contains("EVENTBOARD_HTTP"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runner_leaves_no_broker_and_a_killed_broker_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let process = Runner::start(directory.path(), &[]).await;
    let client = Client::new();
    let token = Visitor::new(&process.ready.http).login("user@acme.com").await;
    let broker = process.ready.pids.nats_server.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(broker), Signal::SIGKILL).unwrap();
    eventually("the broker is dead", || async { !is_alive(broker) }).await;
    let url = format!("{}/events", process.ready.http);
    eventually("requests work again", || async {
        client.get(&url).bearer_auth(&token).send().await.is_ok_and(|response| response.status() == 200)
    })
    .await;

    let ready: eventboard::runner::Ready =
        serde_json::from_slice(&std::fs::read(directory.path().join("ready.json")).unwrap()).unwrap();
    let second = ready.pids.nats_server.unwrap();
    assert!(is_alive(second) && second != broker);
    process.signal(Signal::SIGKILL);
    eventually("the broker ends with its runner", || async { !is_alive(second) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provision_is_idempotent_and_refuses_greedy_streams() {
    let directory = tempfile::tempdir().unwrap();
    let broker = crate::harness::broker::start(directory.path(), None).await;
    let provision = async || {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_eventboard"))
            .arg("provision")
            .env("EVENTBOARD_NATS_URL", broker.url())
            .output()
            .await
            .unwrap()
    };
    for _ in 0..2 {
        let output = provision().await;
        assert!(output.status.success(), "{output:?}");
    }
    let jetstream = async_nats::jetstream::new(async_nats::connect(broker.url()).await.unwrap());
    assert!(jetstream.get_key_value("public-keys").await.is_ok());
    let config = async_nats::jetstream::stream::Config {
        name: "GREEDY".to_owned(),
        subjects: vec!["auth.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let output = provision().await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("GREEDY"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_tells_ready_from_not_ready() {
    let mut system = crate::harness::System::start().await;
    let check = async |url: String| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_eventboard"));
        command.args(["healthcheck", &url]).output().await.unwrap().status.success()
    };
    assert!(check(format!("{}/readyz", system.admin)).await);
    assert!(!check(format!("{}/nothing", system.admin)).await);
    assert!(!check("https://127.0.0.1/readyz".to_owned()).await);
    system.broker.signal(Signal::SIGKILL);
    system.broker.ended().await;
    eventually("the loss shows", || async { !check(format!("{}/readyz", system.admin)).await }).await;
    assert!(check(format!("{}/livez", system.admin)).await);
}
