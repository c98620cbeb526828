//! One key, one effect, one answer: over HTTP and NATS, once and a hundred times at once.

use std::collections::HashSet;

use futures_util::StreamExt;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::system::event;
use crate::harness::{Answer, Database, Member, System, on_both_databases};

on_both_databases!(
    every_write_is_answered_alike_the_second_time,
    a_key_may_be_spelled_and_sent_in_either_way,
    another_request_under_the_same_key_is_refused_and_has_no_effect,
    keys_belong_to_one_user,
    what_the_domain_refused_stays_refused,
    what_was_not_judged_is_not_kept,
    who_may_not_see_an_answer_does_not_get_it,
    a_hundred_at_once_have_one_effect_and_one_answer,
    without_a_key_every_request_is_one_of_its_own,
    a_store_that_is_full_gone_or_empty_changes_nothing,
);

async fn keyed(
    system: &System,
    method: Method,
    path: &str,
    member: &Member,
    key: &str,
    body: &Value,
) -> Answer {
    let request = system.request(method, path, Some(&member.token)).header("Idempotency-Key", key);
    system.send(if body.is_null() { request } else { request.json(body) }).await
}

async fn history(system: &System, id: &str, member: &Member) -> Vec<String> {
    let answer = system.get(&format!("/events/{id}/history"), &member.token).await.expect(200);
    let entries = answer.body["data"].as_array().unwrap().clone();
    entries.iter().map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
}

async fn total(system: &System, member: &Member) -> i64 {
    system.get("/events", &member.token).await.expect(200).body["meta"]["total"].as_i64().unwrap()
}

fn assert_replayed(again: &Answer, first: &Answer) {
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(first.header("idempotent-replayed"), "", "{first:?}");
    assert_eq!(again.header("idempotent-replayed"), "true", "{again:?}");
    assert_eq!(again.header("idempotency-original-correlation-id"), first.header("x-correlation-id"));
    assert_ne!(again.header("x-correlation-id"), first.header("x-correlation-id"));
    for name in ["etag", "location", "content-type"] {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
}

async fn every_write_is_answered_alike_the_second_time(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let user = system.add_member(&admin, "USER").await;
    let twice = async |method: Method, path: String, by: &Member, body: Value, status: u16| {
        let key = format!("{method} {path}").replace(['/', ' '], "-");
        let first = keyed(&system, method.clone(), &path, by, &key, &body).await.expect(status);
        assert_replayed(&keyed(&system, method, &path, by, &key, &body).await, &first);
        first
    };
    let created = twice(Method::POST, "/events".into(), &user, event("Once"), 201).await;
    assert_eq!(created.header("location"), format!("/events/{}", created.id()));
    assert_eq!(total(&system, &user).await, 1);
    let id = created.id();
    let path = |action: &str| format!("/events/{id}{action}");
    twice(Method::PATCH, path(""), &user, json!({ "title": "Changed" }), 200).await;
    twice(Method::POST, path("/submit"), &user, Value::Null, 200).await;
    twice(Method::POST, path("/withdraw"), &user, Value::Null, 200).await;
    system.post(&path("/submit"), &user.token, Value::Null).await.expect(200);
    twice(Method::POST, path("/reject"), &admin, json!({ "reason": "not good enough" }), 200).await;
    system.post(&path("/submit"), &user.token, Value::Null).await.expect(200);
    twice(Method::POST, path("/approve"), &admin, Value::Null, 200).await;
    let expected =
        ["created", "updated", "submitted", "withdrawn", "submitted", "rejected", "submitted", "approved"];
    assert_eq!(history(&system, &id, &admin).await, expected);
    let gone = twice(Method::DELETE, path(""), &admin, Value::Null, 204).await;
    assert_eq!(gone.text, "");
    assert_eq!(total(&system, &admin).await, 0);
    // What is gone is gone; what was answered before stays answered.
    system.get(&path(""), &admin.token).await.expect(404);
    let again = keyed(&system, Method::POST, "/events", &user, "POST--events", &event("Once")).await;
    assert_eq!((again.status, again.id(), again.text), (201, id.clone(), created.text));
}

async fn a_key_may_be_spelled_and_sent_in_either_way(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let first =
        keyed(&system, Method::POST, "/events", &admin, "submit-123", &event("Once")).await.expect(201);
    let quoted = keyed(&system, Method::POST, "/events", &admin, "\"submit-123\"", &event("Once")).await;
    assert_replayed(&quoted, &first);
    let spelled = r#" { "startDate" :"2026-06-01T10:00:00Z","endDate":"2026-06-01T12:00:00Z",
        "description" : "Test", "title":"Once" } "#;
    let bearer = format!("Bearer {}", admin.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "submit-123")];
    let direct = system.message("events.create", spelled, &headers).await;
    assert_eq!((direct.status, &direct.text), (201, &first.text));
    for (name, value) in [
        ("idempotent-replayed", "true"),
        ("idempotency-original-correlation-id", first.header("x-correlation-id")),
        ("etag", "\"1\""),
        ("location", first.header("location")),
    ] {
        assert_eq!(direct.header(name), value);
    }
    assert_eq!(total(&system, &admin).await, 1);
    // The other way round.
    let body = event("Direct");
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "direct-1")];
    let direct = system.message("events.create", &body.to_string(), &headers).await.expect(201);
    let again = keyed(&system, Method::POST, "/events", &admin, "direct-1", &body).await.expect(201);
    assert_eq!((&again.text, again.header("idempotent-replayed")), (&direct.text, "true"));
}

async fn another_request_under_the_same_key_is_refused_and_has_no_effect(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let ids = [system.draft(&admin).await, system.draft(&admin).await];
    let submit = |id: &str| format!("/events/{id}/submit");
    keyed(&system, Method::POST, &submit(&ids[0]), &admin, "k", &Value::Null).await.expect(200);
    let title = json!({ "title": "Other" });
    for (method, path, body) in [
        (Method::POST, submit(&ids[1]), Value::Null),
        (Method::POST, format!("/events/{}/withdraw", ids[0]), Value::Null),
        (Method::PATCH, format!("/events/{}", ids[0]), title.clone()),
        (Method::POST, "/events".to_owned(), event("Third")),
        (Method::DELETE, format!("/events/{}", ids[0]), Value::Null),
    ] {
        let refused = keyed(&system, method, &path, &admin, "k", &body).await.expect(422);
        assert_eq!(refused.problem(), "idempotency-key-reused", "{path}");
        assert_eq!(
            (refused.body["retryable"].as_bool(), &refused.body["outcome"]),
            (Some(false), &json!("none"))
        );
        assert_eq!(refused.header("idempotent-replayed"), "");
    }
    assert_eq!(history(&system, &ids[0], &admin).await, ["created", "submitted"]);
    assert_eq!(history(&system, &ids[1], &admin).await, ["created"]);
    assert_eq!(total(&system, &admin).await, 2);
    let path = format!("/events/{}", ids[1]);
    keyed(&system, Method::PATCH, &path, &admin, "p", &title).await.expect(200);
    let refused = keyed(&system, Method::PATCH, &path, &admin, "p", &json!({ "title": "Another" })).await;
    assert_eq!(refused.expect(422).problem(), "idempotency-key-reused");
}

async fn keys_belong_to_one_user(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let (user, stranger) = (system.add_member(&admin, "USER").await, system.found_organization().await);
    let mut ids = HashSet::new();
    for member in [&admin, &user, &stranger] {
        let created =
            keyed(&system, Method::POST, "/events", member, "same", &event("Mine")).await.expect(201);
        assert_eq!(created.header("idempotent-replayed"), "");
        assert_eq!(created.body["createdById"], member.id);
        ids.insert(created.id());
    }
    assert_eq!(ids.len(), 3);
}

async fn what_the_domain_refused_stays_refused(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let user = system.add_member(&admin, "USER").await;
    let id = system.draft(&user).await;
    let path = |action: &str| format!("/events/{id}{action}");
    let early = keyed(&system, Method::POST, &path("/approve"), &admin, "a", &Value::Null).await.expect(409);
    system.post(&path("/submit"), &user.token, Value::Null).await.expect(200);
    let again = keyed(&system, Method::POST, &path("/approve"), &admin, "a", &Value::Null).await;
    assert_replayed(&again, &early);
    assert_eq!(
        again.body["correlationId"],
        early.header("x-correlation-id"),
        "a replayed problem keeps its bytes"
    );
    keyed(&system, Method::POST, &path("/approve"), &admin, "b", &Value::Null).await.expect(200);

    let nowhere = format!("/events/{}/submit", uuid::Uuid::now_v7());
    let absent = keyed(&system, Method::POST, &nowhere, &user, "c", &Value::Null).await.expect(404);
    assert_replayed(&keyed(&system, Method::POST, &nowhere, &user, "c", &Value::Null).await, &absent);
    let request = || {
        let request =
            system.request(Method::PATCH, &path(""), Some(&admin.token)).header("If-Match", "\"1\"");
        request.header("Idempotency-Key", "d").json(&json!({ "title": "Stale" }))
    };
    for _ in 0..2 {
        let stale = system.send(request()).await.expect(412);
        assert_eq!(stale.header("idempotent-replayed"), "", "nothing was done, so nothing is replayed");
    }
    let current = system.get(&path(""), &admin.token).await.expect(200).header("etag").to_owned();
    let corrected = || {
        let request =
            system.request(Method::PATCH, &path(""), Some(&admin.token)).header("If-Match", &current);
        request.header("Idempotency-Key", "d").json(&json!({ "title": "Stale" }))
    };
    let done = system.send(corrected()).await.expect(200);
    assert_replayed(&system.send(corrected()).await, &done);
    // What has succeeded is replayed, whatever the precondition says by now.
    assert_replayed(&system.send(request()).await, &done);
    let backwards = json!({ "endDate": "2026-01-01T00:00:00Z" });
    let bad = keyed(&system, Method::PATCH, &path(""), &admin, "e", &backwards).await.expect(422);
    assert_eq!(bad.violations(), ["#/endDate not_after_start"]);
    assert_replayed(&keyed(&system, Method::PATCH, &path(""), &admin, "e", &backwards).await, &bad);
}

async fn what_was_not_judged_is_not_kept(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let user = system.add_member(&admin, "USER").await;
    let invalid = json!({ "title": "x" });
    keyed(&system, Method::POST, "/events", &user, "k", &invalid).await.expect(422);
    let created = keyed(&system, Method::POST, "/events", &user, "k", &event("Valid")).await.expect(201);
    assert_eq!(created.header("idempotent-replayed"), "");
    // Forbidden on this object today; nobody knows about tomorrow.
    let theirs = system.event_at("APPROVED", &admin, &system.add_member(&admin, "MODERATOR").await).await;
    let path = format!("/events/{theirs}");
    for _ in 0..2 {
        let refused = keyed(&system, Method::PATCH, &path, &user, "f", &json!({ "title": "Mine" })).await;
        assert_eq!(refused.expect(403).header("idempotent-replayed"), "");
    }
    for bad in ["", "\"open", "é", &"x".repeat(256)] {
        let request = system.request(Method::POST, "/events", Some(&user.token)).json(&event("None"));
        let request = request.header("Idempotency-Key", bad.as_bytes());
        assert_eq!(system.send(request).await.expect(400).problem(), "malformed-request", "{bad:?}");
    }
    let twice = system.request(Method::POST, "/events", Some(&user.token)).json(&event("None"));
    let twice = twice.header("Idempotency-Key", "a").header("Idempotency-Key", "a");
    system.send(twice).await.expect(400);
    assert_eq!(total(&system, &user).await, 2);
}

async fn who_may_not_see_an_answer_does_not_get_it(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let user = system.add_member(&admin, "USER").await;
    let id = system.event_at("SUBMITTED", &user, &admin).await;
    let path = format!("/events/{id}/approve");
    keyed(&system, Method::POST, &path, &admin, "k", &Value::Null).await.expect(200);
    for token in ["nonsense", &format!("{}x", admin.token)] {
        let thief = Member { token: token.to_owned(), ..admin.clone() };
        keyed(&system, Method::POST, &path, &thief, "k", &Value::Null).await.expect(401);
    }
    let without = system.request(Method::POST, &path, None).header("Idempotency-Key", "k");
    system.send(without).await.expect(401);
    // The same user with a lesser role, by a token the system itself would issue.
    let demoted = Member { token: system.token_with_role(&admin, "USER"), ..admin.clone() };
    let refused = keyed(&system, Method::POST, &path, &demoted, "k", &Value::Null).await.expect(403);
    assert_eq!(refused.header("idempotent-replayed"), "");
    keyed(&system, Method::POST, &path, &admin, "k", &Value::Null).await.expect(200);
}

async fn a_hundred_at_once_have_one_effect_and_one_answer(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let bearer = format!("Bearer {}", admin.token);
    for (subject, body) in [("events.create", event("Once")), ("events.submit", Value::Null)] {
        let (path, payload) = if body.is_null() {
            let id = system.draft(&admin).await;
            (format!("/events/{id}/submit"), json!({ "id": id }))
        } else {
            ("/events".to_owned(), body.clone())
        };
        let before = total(&system, &admin).await;
        let calls = (0..100).map(|number| {
            let (system, admin, path, body) = (&system, &admin, &path, &body);
            let (bearer, payload) = (&bearer, payload.to_string());
            async move {
                if number % 2 == 0 {
                    keyed(system, Method::POST, path, admin, subject, body).await
                } else {
                    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", subject)];
                    system.message(subject, &payload, &headers).await
                }
            }
        });
        let answers = join_all(calls).await;
        let (good, rest): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status < 300);
        assert!(rest.iter().all(|answer| answer.problem() == "idempotency-in-progress"), "{rest:?}");
        let bodies: HashSet<&String> = good.iter().map(|answer| &answer.text).collect();
        assert_eq!(bodies.len(), 1, "{bodies:?}");
        let unmarked = good.iter().filter(|answer| answer.header("idempotent-replayed").is_empty()).count();
        assert_eq!(unmarked, 1);
        let made = if body.is_null() { 0 } else { 1 };
        assert_eq!(total(&system, &admin).await, before + made);
        let id = good[0].id();
        let expected: &[&str] = if body.is_null() { &["created", "submitted"] } else { &["created"] };
        assert_eq!(history(&system, &id, &admin).await, expected);
    }
}

async fn without_a_key_every_request_is_one_of_its_own(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    for _ in 0..2 {
        let created = system.post("/events", &admin.token, event("Again")).await.expect(201);
        assert_eq!(created.header("idempotent-replayed"), "");
        system.message_as("events.create", &admin.token, event("Again")).await.expect(201);
    }
    assert_eq!(total(&system, &admin).await, 4);
    // The gateway names what comes without a name, each time anew.
    let mut seen = system.nats.subscribe("events.create").await.unwrap();
    // A round trip: the subscription is in force once it is back.
    system.nats.request("$SRV.PING.events", "".into()).await.unwrap();
    let mut names = HashSet::new();
    for _ in 0..2 {
        system.post("/events", &admin.token, event("Named")).await.expect(201);
        let message = seen.next().await.unwrap();
        let headers = message.headers.unwrap();
        assert_eq!(headers.get("Idempotency-Key-Origin").unwrap().as_str(), "gateway");
        names.insert(headers.get("Idempotency-Key").unwrap().as_str().to_owned());
    }
    assert_eq!(names.len(), 2);
    keyed(&system, Method::POST, "/events", &admin, "mine", &event("Named")).await.expect(201);
    let headers = seen.next().await.unwrap().headers.unwrap();
    assert_eq!(headers.get("Idempotency-Key").unwrap().as_str(), "\"mine\"");
    assert!(headers.get("Idempotency-Key-Origin").is_none());
    // Reads and auth.* have no use for a key.
    let login = json!({ "email": admin.email, "password": crate::harness::system::PASSWORD });
    let mut tokens = HashSet::new();
    for _ in 0..2 {
        let request = system.request(Method::POST, "/auth/login", None).header("Idempotency-Key", "login");
        let answer = system.send(request.json(&login)).await.expect(200);
        tokens.insert(answer.body["refreshToken"].as_str().unwrap().to_owned());
    }
    assert_eq!(tokens.len(), 2);
}

async fn a_store_that_is_full_gone_or_empty_changes_nothing(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let jetstream = async_nats::jetstream::new(system.nats.clone());
    let create = async |key: &str| keyed(&system, Method::POST, "/events", &admin, key, &event("Kept")).await;
    let before = create("before").await.expect(201);
    for state in ["empty", "full", "gone"] {
        let mut stream = jetstream.get_stream("KV_idempotency").await.unwrap();
        match state {
            "empty" => {
                stream.purge().await.unwrap();
            }
            "full" => {
                let mut config = stream.info().await.unwrap().config.clone();
                (config.max_bytes, config.discard) = (1, async_nats::jetstream::stream::DiscardPolicy::New);
                jetstream.update_stream(config).await.unwrap();
            }
            _ => {
                jetstream.delete_stream("KV_idempotency").await.unwrap();
            }
        }
        assert_replayed(&create("before").await, &before);
        let first = create(state).await.expect(201);
        assert_replayed(&create(state).await, &first);
        let other = keyed(&system, Method::POST, "/events", &admin, state, &event("Other")).await.expect(422);
        assert_eq!(other.problem(), "idempotency-key-reused", "{state}");
    }
    assert_eq!(total(&system, &admin).await, 4);
}
