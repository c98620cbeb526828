//! People with a NATS client: the subjects answer without a gateway.

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::process::Runner;
use crate::harness::{System, system::event};

#[tokio::test(flavor = "multi_thread")]
async fn login_create_and_list_by_message() {
    let system = System::start().await;
    let credentials = json!({ "email": "user@acme.com", "password": "Password123!" }).to_string();
    let login =
        system.message("auth.login", &credentials, &[("X-Correlation-ID", "test-123")]).await.expect(200);
    assert_eq!(login.header("x-correlation-id"), "test-123");
    let bearer = format!("Bearer {}", login.body["accessToken"].as_str().unwrap());

    // Names in any case, as people type them.
    let headers = [("authorization", bearer.as_str()), ("x-correlation-id", "test-124")];
    let created =
        system.message("events.create", &event("By message").to_string(), &headers).await.expect(201);
    assert_eq!((created.header("etag"), created.header("x-correlation-id")), ("\"1\"", "test-124"));
    assert_eq!(created.header("location"), format!("/events/{}", created.id()));
    let listed = system.message("events.list", r#"{"search":"by message"}"#, &headers).await.expect(200);
    assert_eq!(listed.body["data"][0]["id"], created.body["id"]);
    system.message("events.list", "", &headers).await.expect(200);

    let payload = json!({ "id": created.id() }).to_string();
    let held = [("Authorization", bearer.as_str()), ("If-None-Match", "\"1\"")];
    let known = system.message("events.get", &payload, &held);
    assert_eq!(known.await.expect(304).text, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_carry_error_headers_and_a_problem_body() {
    let system = System::start().await;
    let missing = system.message("events.list", "{}", &[]).await.expect(401);
    assert_eq!(missing.header("nats-service-error-code"), "401");
    assert!(missing.header("nats-service-error").contains("Authorization"), "{missing:?}");
    assert_eq!((missing.problem(), &missing.body["status"]), ("unauthenticated", &json!(401)));
    assert_eq!(missing.body["correlationId"], missing.header("x-correlation-id"));
    assert_eq!(missing.header("content-type"), "application/problem+json");

    let admin = system.login("admin@acme.com", "Password123!").await;
    let bearer = format!("Bearer {}", admin.token);
    let ask = async |payload: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("Authorization", bearer.as_str())];
        headers.extend_from_slice(more);
        system.message("events.create", payload, &headers).await
    };
    assert_eq!(ask("{", &[]).await.expect(400).problem(), "malformed-request");
    assert_eq!(ask(r#"{"title":"a","title":"b"}"#, &[]).await.expect(400).problem(), "malformed-request");
    let broken = ask(r#"{"title":"Test"}"#, &[]).await.expect(422);
    assert_eq!(broken.violations(), ["#/description required", "#/endDate required", "#/startDate required"]);
    let valid = event("Test").to_string();
    assert_eq!(
        ask(&valid, &[("authorization", bearer.as_str())]).await.expect(400).problem(),
        "malformed-request"
    );
    ask(&valid, &[("Idempotency-Key", "")]).await.expect(400);
    ask(&valid, &[("X-Budget-Ms", "soon")]).await.expect(400);
    ask(&valid, &[("If-Match", "3")]).await.expect(400);
    ask(&format!(r#"{{"title":"{}"}}"#, "x".repeat(70_000)), &[]).await.expect(413);
    let wrong = [("Authorization", "Basic dXNlcg==")];
    assert_eq!(system.message("events.list", "{}", &wrong).await.expect(401).problem(), "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_in_bodies_never_count() {
    let system = System::start().await;
    let user = system.login("user@acme.com", "Password123!").await;
    let foreign = system.login("user@techinnovators.com", "Password123!").await;
    let mut body = event("Whose is it");
    for name in ["organizationId", "createdById", "userId", "role", "status", "id"] {
        body[name] = json!(foreign.organization);
        let refused = system.message_as("events.create", &user.token, body.clone()).await.expect(422);
        assert_eq!(refused.violations(), [format!("#/{name} unknown_field")]);
        body.as_object_mut().unwrap().remove(name);
    }
    let created = system.message_as("events.create", &user.token, body).await.expect(201);
    assert_eq!(
        (&created.body["organizationId"], &created.body["createdById"]),
        (&json!(user.organization), &json!(user.id))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_nats_services_with_their_own_queue_groups() {
    let system = System::start().await;
    for service in ["auth", "events"] {
        let info = system.nats.request(format!("$SRV.INFO.{service}"), "".into()).await.unwrap();
        let info: Value = serde_json::from_slice(&info.payload).unwrap();
        assert_eq!(info["name"], service);
        let endpoints = info["endpoints"].as_array().unwrap();
        let declared = contract::descriptions();
        let declared = declared.iter().filter(|operation| operation.subject.starts_with(service)).count();
        assert_eq!(endpoints.len(), declared);
        for endpoint in endpoints {
            assert_eq!(endpoint["queue_group"], service, "{endpoint}");
            assert!(endpoint["metadata"]["http"].as_str().unwrap().contains('/'), "{endpoint}");
        }
    }
    system.message("events.list", "{}", &[]).await.expect(401);
    let stats = system.nats.request("$SRV.STATS.events", "".into()).await.unwrap();
    let stats: Value = serde_json::from_slice(&stats.payload).unwrap();
    let endpoint = |name: &str| {
        let endpoints = stats["endpoints"].as_array().unwrap();
        endpoints.iter().find(|endpoint| endpoint["name"] == name).unwrap().clone()
    };
    let (list, get) = (endpoint("list"), endpoint("get"));
    assert_eq!((&list["num_requests"], &list["num_errors"]), (&json!(1), &json!(1)), "{list}");
    assert_eq!((&list["last_error"], &get["num_requests"]), (&json!("401"), &json!(0)));
    assert_eq!(list["processing_time"], list["average_processing_time"]);
    // One instance answers to its own id only, and nobody to what is not a question.
    let id = stats["id"].as_str().unwrap();
    let ping = system.nats.request(format!("$SRV.PING.events.{id}"), "".into()).await.unwrap();
    let ping: Value = serde_json::from_slice(&ping.payload).unwrap();
    assert_eq!((&ping["type"], &ping["id"]), (&json!("io.nats.micro.v1.ping_response"), &stats["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_goes_to_an_inbox_and_nowhere_else() {
    let system = System::start().await;
    let admin = system.login("admin@acme.com", "Password123!").await;
    let mut watched = system.nats.subscribe("somewhere.else").await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Authorization", format!("Bearer {}", admin.token).as_str());
    let payload = event("Reflected").to_string();
    let publish = |reply: &'static str| {
        system.nats.publish_with_reply_and_headers(
            "events.create",
            reply,
            headers.clone(),
            payload.clone().into(),
        )
    };
    publish("somewhere.else").await.unwrap();
    // The same worker answers this one after it has dropped the other.
    let listed =
        system.message_as("events.list", &admin.token, json!({ "search": "reflected" })).await.expect(200);
    assert_eq!(listed.body["data"], json!([]));
    system.nats.flush().await.unwrap();
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(200), watched.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_worker_publish_to_its_own_inboxes() {
    let directory = tempfile::tempdir().unwrap();
    let runner = Runner::start(directory.path(), &[("EVENTBOARD_HTTP", "127.0.0.1:0")]).await;
    let client = async_nats::connect(&runner.ready.nats).await.unwrap();
    let mut inboxes = client.subscribe("*.victim").await.unwrap();
    let mut elsewhere = client.subscribe("elsewhere").await.unwrap();
    client.flush().await.unwrap();
    for (subject, reply) in [
        ("events.get", "_INBOX_events.victim"),
        ("auth.me", "_INBOX_auth.victim"),
        ("$SRV.INFO.events", "_INBOX_events.victim"),
        ("$SRV.STATS.auth", "_INBOX_auth.victim"),
        ("events.get", "elsewhere"),
    ] {
        client.publish_with_reply(subject, reply, "{}".into()).await.unwrap();
    }
    // Somebody else's inbox is answered, after all of these.
    client.publish_with_reply("events.get", "_INBOX_ops.victim", "{}".into()).await.unwrap();
    client.publish_with_reply("auth.me", "_INBOX_ops.victim", "{}".into()).await.unwrap();
    for _ in 0..2 {
        let answered = tokio::time::timeout(std::time::Duration::from_secs(10), inboxes.next()).await;
        assert_eq!(answered.expect("an answer").unwrap().subject.as_str(), "_INBOX_ops.victim");
    }
    let said = |text: &str| runner.lines_with(text).iter().filter(|line| line["level"] == "WARN").count();
    crate::harness::eventually("the log says why", || async {
        said("its reply subject is an inbox of this service") == 4
            && said("its reply subject does not begin with _INBOX") == 1
    })
    .await;
    assert!(futures_util::FutureExt::now_or_never(inboxes.next()).is_none());
    assert!(futures_util::FutureExt::now_or_never(elsewhere.next()).is_none());
}
