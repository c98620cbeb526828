//! Secrets and personal data: in no log line, no bucket or stream of the broker, and no row they do not belong in.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row};

use crate::harness::collector::Collector;
use crate::harness::compose::{Compose, Service};
use crate::harness::eventually;
use crate::harness::process::program;

/// Stand in what is typed, and nowhere else.
const PASSWORD: &str = "canary-password-Zq8#rT2v";
const WRONG: &str = "canary-wrong-Kw5!mN9x";
const NEXT: &str = "canary-next-Hb3$yU7c";
const EMAIL: &str = "canary.person@example.com";
const INVITED: &str = "canary.invited@example.com";
const ADDRESS: &str = "203.0.113.77";

/// Every text in every table of a database, with where it stands.
async fn rows(compose: &Compose, database: &str) -> Vec<(String, String)> {
    let mut connection = compose.postgres.connect_to(database).await;
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let statement = format!("SELECT row_to_json(t)::text FROM {table} t");
        for row in sqlx::query(AssertSqlSafe(statement)).fetch_all(&mut connection).await.unwrap() {
            let row: Value = serde_json::from_str(&row.get::<String, _>(0)).unwrap();
            for (column, value) in row.as_object().unwrap() {
                // Bytes are shown in hexadecimal.
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let bytes = text.strip_prefix("\\x").and_then(decode_hex);
                let text = bytes.map_or(text, |bytes| String::from_utf8_lossy(&bytes).into_owned());
                found.push((format!("{table}.{column}"), text));
            }
        }
    }
    found
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// Everything the broker has stored: its files, and what it holds in memory.
async fn stored(compose: &Compose) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![compose.store()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                found.push(format!("{}: {}", path.display(), String::from_utf8_lossy(&bytes)));
            }
        }
    }
    let client = compose.nats("auth-worker").await;
    for sequence in 1..1000 {
        let wanted = json!({ "seq": sequence }).to_string();
        let reply = client.request("$JS.API.STREAM.MSG.GET.KV_login-throttle", wanted.into()).await.unwrap();
        let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
        let Some(message) = reply["message"].as_object() else { continue };
        let decoded = |name: &str| STANDARD.decode(message.get(name)?.as_str()?).ok();
        let parts = ["hdrs", "data"].map(|name| decoded(name).unwrap_or_default()).concat();
        found.push(format!("{} {}", message["subject"], String::from_utf8_lossy(&parts)));
    }
    found
}

/// Does everything that has to do with secrets, and returns every token there was.
async fn exercise(http: &str) -> BTreeSet<String> {
    let client = Client::new();
    let post = async |path: &str, token: &str, body: Value| -> (u16, Value) {
        let request = client.post(format!("{http}{path}")).header("X-Forwarded-For", ADDRESS);
        let request = request.header("X-Correlation-ID", "canary-run").bearer_auth(token);
        let answer =
            request.header("Idempotency-Key", format!("k{}", path.len())).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    };
    let mut tokens = BTreeSet::new();
    let mut keep = |body: &Value| {
        for name in ["accessToken", "refreshToken", "invitation"] {
            tokens.extend(body[name].as_str().map(str::to_owned));
        }
        body["accessToken"].as_str().unwrap_or_default().to_owned()
    };
    let signup = json!({
        "email": EMAIL, "password": PASSWORD, "firstName": "Can", "lastName": "Ary", "organizationName": "Aviary",
    });
    let (status, signed_up) = post("/auth/signup", "", signup).await;
    assert_eq!(status, 201, "{signed_up}");
    let token = keep(&signed_up);
    assert_eq!(post("/auth/login", "", json!({ "email": EMAIL, "password": WRONG })).await.0, 401);
    let (_, signed_in) = post("/auth/login", "", json!({ "email": EMAIL, "password": PASSWORD })).await;
    keep(&signed_in);
    let (_, renewed) = post("/auth/refresh", "", json!({ "refreshToken": signed_in["refreshToken"] })).await;
    keep(&renewed);
    let (status, invited) =
        post("/auth/invitations", &token, json!({ "email": INVITED, "role": "USER" })).await;
    assert_eq!(status, 201, "{invited}");
    keep(&invited);
    let change = json!({ "currentPassword": PASSWORD, "newPassword": NEXT });
    assert_eq!(post("/auth/password", &token, change).await.0, 204);
    let event = crate::harness::system::event("A cage for canaries");
    let (status, created) = post("/events", &token, event).await;
    assert_eq!(status, 201, "{created}");
    // Refused, malformed and misplaced: what is quoted in an error is quoted here.
    let wrong = json!({ "email": [EMAIL], "password": { "x": PASSWORD }, EMAIL: PASSWORD });
    assert_eq!(post("/auth/login", &token, wrong).await.0, 422);
    let request = client.post(format!("{http}/auth/login")).header("Content-Type", "application/json");
    let garbled =
        request.body(format!("{{\"email\":\"{EMAIL}\",\"password\":\"{PASSWORD}")).send().await.unwrap();
    assert_eq!(garbled.status(), 400);
    let (status, _) = post("/auth/refresh", "", json!({ "refreshToken": PASSWORD })).await;
    assert_eq!(status, 401);
    assert_eq!(post("/auth/logout", "", json!({ "refreshToken": renewed["refreshToken"] })).await.0, 204);
    assert!(tokens.len() >= 7, "{}", tokens.len());
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_are_found_where_they_belong_and_nowhere_else() {
    let compose = Compose::start().await;
    assert!(compose.run("provision").await);
    // Everything that is ever logged.
    let collector = Collector::start().await;
    let mut loud = vec![
        ("RUST_LOG", "trace,h2=info,async_nats=debug".to_owned()),
        ("EVENTBOARD_TRUSTED_HOPS", "1".to_owned()),
    ];
    loud.extend(collector.environment());
    let mut services: Vec<Service> = Vec::new();
    for name in ["auth-worker", "events-worker", "gateway"] {
        services.push(compose.up_as(name, &program(name).await, &loud).await);
    }
    let http = services[2].http().await;
    let tokens = exercise(&http).await;
    let mut secrets: Vec<&str> = vec![PASSWORD, WRONG, NEXT];
    secrets.extend(tokens.iter().map(String::as_str));
    let personal = [EMAIL, INVITED, ADDRESS];
    eventually("the revocation is told", || async {
        stored(&compose).await.iter().any(|one| one.contains("$KV.revocations.session."))
    })
    .await;
    let stored = stored(&compose).await;
    for kept in ["$KV.login-throttle.pair.", "$KV.idempotency.", "$KV.public-keys.jwks"] {
        assert!(stored.iter().any(|one| one.contains(kept)), "nothing is kept under {kept}");
    }
    for one in &stored {
        for canary in secrets.iter().chain(&personal) {
            assert!(!one.contains(canary), "{canary} is kept by the broker: {one}");
        }
    }
    for service in &services {
        assert!(!service.process.lines_with("canary-run").is_empty(), "nothing was logged");
        for canary in secrets.iter().chain(&personal) {
            assert_eq!(service.process.lines_with(canary), Vec::<Value>::new(), "in a log");
        }
    }
    eventually("the last span arrives", || async {
        collector.spans().iter().any(|span| span.name == "POST /auth/logout")
    })
    .await;
    for span in collector.spans() {
        for canary in secrets.iter().chain(&personal) {
            assert!(!span.text.contains(canary), "{canary} is in a span: {}", span.text);
        }
    }
    for database in ["auth", "events"] {
        let rows = rows(&compose, database).await;
        assert!(!rows.is_empty());
        for (place, text) in &rows {
            for secret in &secrets {
                assert!(!text.contains(secret), "{place}: {text}");
            }
            for person in personal {
                let belongs = matches!(place.as_str(), "users.email" | "invitations.email");
                assert!(belongs || !text.contains(person), "{place}: {text}");
            }
        }
    }
}
