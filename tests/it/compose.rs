//! The composition as a team runs it, with the files that describe it: walkthrough, scaling, loss, secrets.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use crate::harness::compose::{self, Compose, Service, texts};
use crate::harness::eventually;
use crate::harness::walkthrough::Visitor;

/// The services that stay, as the composition starts them.
async fn up(compose: &Compose) -> [Service; 3] {
    assert!(compose.run("provision").await, "provisioning fails");
    [compose.up("auth-worker").await, compose.up("events-worker").await, compose.up("gateway").await]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walkthrough_works_and_every_service_scales_and_stops() {
    let compose = Compose::start().await;
    let [auth, events, gateway] = up(&compose).await;
    assert!(compose.run("provision").await, "provisioning again fails");
    let visitor = Visitor::new(&gateway.http().await);
    let walked = visitor.walk().await;
    for service in [&gateway, &events] {
        eventually("test-123 is in the log", || async { !service.process.lines_with("test-123").is_empty() })
            .await;
    }

    let workers = [compose.up("events-worker").await, compose.up("events-worker").await];
    let auth_workers = [compose.up("auth-worker").await];
    let second = compose.up("gateway").await;
    let other = Visitor::new(&second.http().await);
    other.has_walked(&walked).await;
    eventually("every worker of three answers to both gateways", || async {
        for visitor in [&visitor, &other] {
            visitor.create(&walked.token).await;
        }
        [&events, &workers[0], &workers[1]]
            .iter()
            .all(|worker| !worker.process.lines_with("events.create").is_empty())
    })
    .await;

    // Each one in its turn; whoever is left does the work.
    let [first_worker, second_worker] = workers;
    for worker in [events, first_worker] {
        assert!(worker.down().await, "an events worker ends badly");
        other.walk().await;
    }
    assert!(auth.down().await, "the auth worker ends badly");
    assert!(gateway.down().await, "the gateway ends badly");
    other.walk().await;
    let [second_auth] = auth_workers;
    for service in [second, second_worker, second_auth] {
        assert!(service.down().await, "the last of its kind ends badly");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_lost_everything_loses_nothing_that_was_acknowledged() {
    let mut compose = Compose::start().await;
    let [_auth, _events, gateway] = up(&compose).await;
    let http = gateway.http().await;
    let visitor = Visitor::new(&http);
    let walked = visitor.walk().await;

    // Writes go on all the time; what is answered with 201 is remembered.
    let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
    let (url, token) = (format!("{http}/events"), walked.token.clone());
    let writer = tokio::spawn(async move {
        let client = reqwest::Client::new();
        let event = serde_json::json!({
            "title": "Kept", "description": "Test",
            "startDate": "2026-06-01T10:00:00Z", "endDate": "2026-06-01T12:00:00Z",
        });
        loop {
            let answer = client.post(&url).bearer_auth(&token).json(&event).send().await.unwrap();
            if answer.status() == 201 {
                let body: Value = answer.json().await.unwrap();
                acknowledge.send(body["id"].as_str().unwrap().to_owned()).unwrap();
            }
        }
    });
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(acknowledged.recv().await.unwrap());
    }
    compose.wipe_broker().await;
    let before = ids.len();
    while ids.len() < before + 50 {
        let next = tokio::time::timeout(Duration::from_secs(10), acknowledged.recv()).await;
        ids.push(next.expect("writes go on without what the broker lost").unwrap());
    }
    writer.abort();
    while let Ok(id) = acknowledged.try_recv() {
        ids.push(id);
    }
    for id in &ids {
        let (status, _, event) = visitor.get(&format!("/events/{id}"), &walked.token).await;
        assert_eq!(status, 200, "{id} was acknowledged and is lost: {event}");
    }

    // Whoever starts now needs what was in the broker: provisioning and the auth worker bring it back.
    assert!(compose.run("provision").await, "provisioning fails");
    let second = compose.up("gateway").await;
    let visitor = Visitor::new(&second.http().await);
    visitor.has_walked(&walked).await;
    visitor.walk().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_files_and_nowhere_else() {
    let compose = Compose::start().await;
    let services = up(&compose).await;
    let visitor = Visitor::new(&services[2].http().await);
    let walked = visitor.walk().await;
    let file = compose::read("docker-compose.yml");
    let mut secrets = vec![walked.token, "Password123!".to_owned(), "user@acme.com".to_owned()];
    for secret in file["secrets"].as_object().unwrap().values() {
        let text = std::fs::read_to_string(secret["file"].as_str().unwrap()).unwrap();
        secrets.extend(text.lines().map(str::to_owned).filter(|line| line.len() > 12));
    }
    assert!(secrets.len() > 12);
    for service in &services {
        for secret in &secrets {
            assert!(service.process.lines_with(secret).is_empty(), "a secret is in a log");
            assert!(!service.environment.values().any(|value| value.contains(secret)));
        }
        assert!(!service.process.lines_with("ready").is_empty());
    }
}

#[test]
fn the_composition_is_hardened_pinned_and_scalable() {
    let base = compose::read("docker-compose.yml");
    let cluster = compose::read("docker-compose.cluster.yml");
    for (name, service) in base["services"].as_object().unwrap() {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert!(service["restart"].is_string(), "{name}");
        assert!(service["deploy"]["resources"]["limits"]["pids"].is_number(), "{name}");
        assert!(service["deploy"]["resources"]["limits"]["memory"].is_string(), "{name}");
        assert!(service["deploy"]["resources"]["limits"]["cpus"].is_string(), "{name}");
        assert!(service["container_name"].is_null(), "{name} could not be scaled");
        let (_, tag) = service["image"].as_str().unwrap().split_once(':').expect("a tag");
        let number = tag.trim_start_matches('v');
        let pinned = number.starts_with(|first: char| first.is_ascii_digit()) && number.contains('.');
        assert!(pinned, "{name}: {tag}");
        let added = matches!(name.as_str(), "nats-exporter" | "prometheus" | "loki" | "alloy" | "grafana");
        assert_eq!(texts(&service["profiles"]), if added { vec!["observability"] } else { vec![] }, "{name}");
        for volume in texts(&service["volumes"]).into_iter().filter(|volume| volume.starts_with("./")) {
            let file = volume.split(':').next().unwrap();
            assert!(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{name}: {file}");
        }
        if matches!(name.as_str(), "gateway" | "auth-worker" | "events-worker") {
            assert_eq!(service["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"], "http://jaeger:4318", "{name}");
        }
        // One gateway must not take another one's port, and nothing listens beyond this machine.
        let published = texts(&service["ports"]);
        match name.as_str() {
            "proxy" => assert_eq!(published, ["127.0.0.1:${EVENTBOARD_PORT:-3000}:3000"]),
            "jaeger" => assert_eq!(published, ["127.0.0.1:16686:16686"]),
            "grafana" => assert_eq!(published, ["127.0.0.1:3001:3000"]),
            "prometheus" => assert_eq!(published, ["127.0.0.1:9090:9090"]),
            _ => assert!(published.is_empty(), "{name} publishes {published:?}"),
        }
    }
    for name in ["nats-2", "nats-3"] {
        let service = &cluster["services"][name];
        assert_eq!(
            (&service["read_only"], &service["image"]),
            (&true.into(), &base["services"]["nats"]["image"])
        );
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert!(service["ports"].is_null(), "{name}");
    }
    let replicas = |file: &Value| file["services"]["provision"]["environment"]["EVENTBOARD_REPLICAS"].clone();
    assert_eq!((replicas(&base), replicas(&cluster)), ("1".into(), "3".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_with_one_key_over_three_gateways_have_one_effect() {
    let compose = Compose::start().await;
    assert!(compose.run("provision").await, "provisioning fails");
    let _auth = compose.up("auth-worker").await;
    let mut workers = Vec::new();
    let mut gateways = Vec::new();
    for _ in 0..3 {
        workers.push(compose.up("events-worker").await);
        gateways.push(compose.up("gateway").await);
    }
    let mut urls = Vec::new();
    for gateway in &gateways {
        urls.push(format!("{}/events", gateway.http().await));
    }
    let visitor = Visitor::new(urls[0].trim_end_matches("/events"));
    let token = visitor.login("user@techinnovators.com").await;
    let before = visitor.get("/events", &token).await.2["meta"]["total"].as_i64().unwrap();
    let client = reqwest::Client::new();
    let event = serde_json::json!({
        "title": "One of a thousand", "description": "Test",
        "startDate": "2026-06-01T10:00:00Z", "endDate": "2026-06-01T12:00:00Z",
    });
    let calls = (0..1000).map(|number| {
        let request = client.post(&urls[number % 3]).bearer_auth(&token).json(&event);
        let request = request.header("Idempotency-Key", "one-of-a-thousand");
        tokio::spawn(async move {
            // As a client does that is told to ask again.
            for _ in 0..100 {
                let answer = request.try_clone().unwrap().send().await.unwrap();
                let status = answer.status().as_u16();
                let replayed = answer.headers().contains_key("idempotent-replayed");
                let body = answer.text().await.unwrap();
                match status {
                    201 => return (replayed, body),
                    409 | 503 => tokio::time::sleep(Duration::from_millis(100)).await,
                    _ => panic!("{status} {body}"),
                }
            }
            panic!("no answer after a hundred attempts");
        })
    });
    let answers: Vec<(bool, String)> =
        futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|(replayed, _)| !replayed).count(), 1, "unmarked answers");
    assert!(answers.iter().all(|(_, body)| *body == answers[0].1), "answers differ");
    let after = visitor.get("/events", &token).await.2["meta"]["total"].as_i64().unwrap();
    assert_eq!(after, before + 1);
    // Every worker had its share.
    for worker in &workers {
        assert!(!worker.process.lines_with("events.create").is_empty());
    }
}
