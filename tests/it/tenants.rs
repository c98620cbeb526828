//! Two organisations: whatever one of them sends to any route or subject, nothing of the other's shows or changes.

use contract::{Description, Method, descriptions};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::Method as HttpMethod;
use serde_json::{Map, Value, json};

use crate::harness::system::{event, signup};
use crate::harness::{Answer, Database, Member, System, on_both_databases};

on_both_databases!(nothing_of_another_organisation_shows_or_changes,);

/// Requests to each operation, over HTTP and as many as messages.
const TRIES: usize = 25;
/// Stands in every text that belongs to the other organisation.
const CANARY: &str = "Kanarienvogel";

/// Everything of the other organisation's that there is to see.
async fn everything(system: &System, admin: &Member, events: &[String]) -> Vec<String> {
    let mut seen = Vec::new();
    for path in ["/auth/me", "/auth/members?limit=100", "/events?limit=100&sortBy=createdAt"] {
        seen.push(system.get(path, &admin.token).await.expect(200).text);
    }
    for id in events {
        seen.push(system.get(&format!("/events/{id}"), &admin.token).await.expect(200).text);
        seen.push(system.get(&format!("/events/{id}/history"), &admin.token).await.expect(200).text);
    }
    seen
}

/// A body of known names and of values that belong to the other organisation.
fn body(rng: &mut StdRng, operation: &Description, foreign: &[String], own: &Member) -> Map<String, Value> {
    let texts = ["Stolen title", "USER", "ADMIN", "APPROVED", "createdAt", "asc"].map(str::to_owned);
    let schema = serde_json::to_value(&operation.request.schema).unwrap();
    let known: Vec<String> =
        schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let mut members = Map::new();
    for name in &known {
        if rng.random_bool(0.7) {
            let value = match name.as_str() {
                "id" | "cursor" => json!(foreign.choose(rng)),
                "role" => json!("USER"),
                "disabled" => json!(true),
                "limit" => json!(rng.random_range(1..=100)),
                "page" => json!(1),
                "search" => json!(CANARY),
                "reason" => json!("none of your business"),
                "startDate" | "startDateFrom" => json!("2020-01-01T00:00:00Z"),
                "endDate" | "startDateTo" => json!("2030-01-01T00:00:00Z"),
                "email" => json!(own.email),
                _ => json!(texts.choose(rng)),
            };
            members.insert(name.clone(), value);
        }
    }
    // What would make the caller somebody else, if anybody believed it.
    for name in ["organizationId", "organization_id", "createdById", "userId", "org", "sub"] {
        if rng.random_bool(0.05) {
            members.insert(name.to_owned(), json!(foreign.choose(rng)));
        }
    }
    if operation.route.path.contains("{id}") {
        members.insert("id".to_owned(), json!(foreign.choose(rng)));
    }
    members
}

async fn over_http(
    system: &System,
    operation: &Description,
    body: &Map<String, Value>,
    token: &str,
) -> Answer {
    let mut body = body.clone();
    let mut path = operation.route.path.to_owned();
    if path.contains("{id}") {
        path = path.replace("{id}", body.remove("id").unwrap().as_str().unwrap());
    }
    let method = match operation.route.method {
        Method::Get => HttpMethod::GET,
        Method::Post => HttpMethod::POST,
        Method::Patch => HttpMethod::PATCH,
        Method::Delete => HttpMethod::DELETE,
    };
    if operation.route.method == Method::Get {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let query: Vec<_> = body.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
        path = format!("{path}?{}", query.join("&").replace(' ', "%20"));
        return system.send(system.request(method, &path, Some(token))).await;
    }
    let request = system.request(method, &path, Some(token));
    system.send(if operation.route.method == Method::Delete { request } else { request.json(&body) }).await
}

async fn nothing_of_another_organisation_shows_or_changes(database: Database) {
    let system = System::start_on(database).await;
    let mut founder = signup(json!({ "organizationName": format!("{CANARY} GmbH"), "firstName": CANARY }));
    founder["lastName"] = json!(CANARY);
    let theirs = system.post("/auth/signup", "", founder.clone()).await.expect(201);
    let theirs = Member {
        id: theirs.body["user"]["id"].as_str().unwrap().to_owned(),
        email: theirs.body["user"]["email"].as_str().unwrap().to_owned(),
        organization: theirs.body["user"]["organizationId"].as_str().unwrap().to_owned(),
        token: theirs.body["accessToken"].as_str().unwrap().to_owned(),
        refresh: theirs.body["refreshToken"].as_str().unwrap().to_owned(),
    };
    let their_user = system.add_member(&theirs, "USER").await;
    let mut events = Vec::new();
    for status in ["DRAFT", "SUBMITTED", "APPROVED", "REJECTED"] {
        let id = system.event_at(status, &their_user, &theirs).await;
        let titled = event(&format!("{CANARY} {status}"));
        system
            .patch(&format!("/events/{id}"), &theirs.token, json!({ "title": titled["title"] }))
            .await
            .expect(200);
        events.push(id);
    }
    let sessions = system.get("/auth/sessions", &theirs.token).await.expect(200);
    let mut foreign = events.clone();
    foreign.extend([theirs.id.clone(), their_user.id.clone(), theirs.organization.clone()]);
    foreign.push(sessions.body["data"][0]["id"].as_str().unwrap().to_owned());

    let before = everything(&system, &theirs, &events).await;
    let ours = system.found_organization().await;
    let mut rng = StdRng::seed_from_u64(20_261_124);
    let mut tried = 0;
    for operation in descriptions() {
        // These end the caller's own sessions; what they can reach is tried by their own suites.
        if operation.subject == "auth.logout_all" {
            continue;
        }
        for role in ["USER", "ADMIN"] {
            let intruder = system.add_member(&ours, role).await;
            for _ in 0..TRIES {
                let body = body(&mut rng, &operation, &foreign, &intruder);
                let answers = [
                    over_http(&system, &operation, &body, &intruder.token).await,
                    system.message_as(operation.subject, &intruder.token, Value::Object(body.clone())).await,
                ];
                for answer in answers {
                    tried += 1;
                    let what = format!("{} {body:?}: {answer:?}", operation.subject);
                    assert!(answer.status < 500, "{what}");
                    assert!(!answer.text.contains(CANARY), "{what}");
                    assert!(!answer.text.contains(&theirs.email), "{what}");
                    if operation.route.path.contains("{id}") {
                        assert!(answer.status >= 400, "{what}");
                        assert!(matches!(answer.status, 404 | 422 | 403 | 400), "{what}");
                    }
                }
            }
        }
    }
    assert!(tried > 1500, "only {tried} requests");
    assert_eq!(everything(&system, &theirs, &events).await, before);
    system.get("/events", &their_user.token).await.expect(200);
    let refreshed = system.post("/auth/refresh", "", json!({ "refreshToken": theirs.refresh })).await;
    refreshed.expect(200);
}
