//! An event's way through moderation: transitions, their races, versions and history.

use serde_json::{Value, json};

use crate::harness::{Database, System, on_both_databases, system::event};

on_both_databases!(
    a_rejected_event_is_edited_submitted_again_and_approved,
    an_edit_sends_an_approved_event_back_unless_an_admin_or_nothing_changes_it,
    of_approve_and_reject_raced_exactly_one_wins_a_hundred_times,
    versions_guard_changes_and_spare_readers,
    dates_are_judged_as_they_will_be_stored,
);

async fn a_rejected_event_is_edited_submitted_again_and_approved(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let (user, moderator) =
        (system.add_member(&admin, "USER").await, system.add_member(&admin, "MODERATOR").await);
    let id = system.event_at("REJECTED", &user, &moderator).await;
    let path = format!("/events/{id}");

    let rejected = system.get(&path, &user.token).await.expect(200);
    assert_eq!(rejected.body["rejectionReason"], "not good enough yet");
    let edited = system.patch(&path, &user.token, json!({ "title": "Better" })).await.expect(200);
    assert_eq!((&edited.body["status"], &edited.body["title"]), (&json!("REJECTED"), &json!("Better")));
    let submitted = system.post(&format!("{path}/submit"), &user.token, Value::Null).await.expect(200);
    assert_eq!(
        (&submitted.body["status"], &submitted.body["rejectionReason"]),
        (&json!("SUBMITTED"), &Value::Null)
    );
    let approved = system.post(&format!("{path}/approve"), &moderator.token, Value::Null).await.expect(200);
    assert_eq!((&approved.body["status"], &approved.body["version"]), (&json!("APPROVED"), &json!(6)));

    let history = system.get(&format!("{path}/history"), &user.token).await.expect(200);
    let steps: Vec<Value> =
        history.body["data"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(steps, ["created", "submitted", "rejected", "updated", "submitted", "approved"]);
    let last = &history.body["data"][5];
    assert_eq!(
        (&last["actor"], &last["from"], &last["to"]),
        (&json!(moderator.id), &json!("SUBMITTED"), &json!("APPROVED"))
    );
    assert_eq!(last["correlationId"], approved.header("x-correlation-id"));
    assert_eq!(history.body["data"][2]["reason"], "not good enough yet");
    assert_eq!(history.body["data"][5]["reason"], Value::Null);
}

async fn an_edit_sends_an_approved_event_back_unless_an_admin_or_nothing_changes_it(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let user = system.add_member(&admin, "USER").await;
    let id = system.event_at("APPROVED", &user, &admin).await;
    let path = format!("/events/{id}");
    let status = async |token: &str, change: Value| {
        let answer = system.patch(&path, token, change).await.expect(200);
        (answer.body["status"].as_str().unwrap().to_owned(), answer.body["version"].as_i64().unwrap())
    };
    assert_eq!(status(&admin.token, json!({ "location": "Here" })).await, ("APPROVED".to_owned(), 4));
    assert_eq!(status(&user.token, json!({ "location": "Here" })).await, ("APPROVED".to_owned(), 4));
    assert_eq!(status(&user.token, json!({})).await, ("APPROVED".to_owned(), 4));
    assert_eq!(status(&user.token, json!({ "location": null })).await, ("SUBMITTED".to_owned(), 5));
}

async fn of_approve_and_reject_raced_exactly_one_wins_a_hundred_times(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let (user, moderator) =
        (system.add_member(&admin, "USER").await, system.add_member(&admin, "MODERATOR").await);
    for _ in 0..100 {
        let id = system.event_at("SUBMITTED", &user, &admin).await;
        let (approve, reject) = (format!("/events/{id}/approve"), format!("/events/{id}/reject"));
        let reason = json!({ "reason": "raced and refused" });
        let (approved, rejected) = tokio::join!(
            system.post(&approve, &admin.token, Value::Null),
            system.post(&reject, &moderator.token, reason)
        );
        let mut statuses = [approved.status, rejected.status];
        statuses.sort();
        assert_eq!(statuses, [200, 409], "{approved:?} {rejected:?}");
        let winner = if approved.status == 200 { "APPROVED" } else { "REJECTED" };
        let now = system.get(&format!("/events/{id}"), &user.token).await;
        assert_eq!(now.body["status"], winner);
        let history = system.get(&format!("/events/{id}/history"), &user.token).await;
        assert_eq!(history.body["data"].as_array().unwrap().len(), 3, "{history:?}");
    }
}

async fn versions_guard_changes_and_spare_readers(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let created = system.post("/events", &admin.token, event("Versions")).await.expect(201);
    assert_eq!(created.header("etag"), "\"1\"");
    let path = created.header("location").to_owned();
    assert_eq!(path, format!("/events/{}", created.id()));

    let with = |method, name: &'static str, tag: &'static str| {
        system.request(method, &path, Some(&admin.token)).header(name, tag)
    };
    let held = system.send(with(reqwest::Method::GET, "if-none-match", "\"1\"")).await.expect(304);
    assert_eq!((held.text.as_str(), held.header("etag")), ("", "\"1\""));
    system.send(with(reqwest::Method::GET, "if-none-match", "\"0\", W/\"1\"")).await.expect(304);
    system.send(with(reqwest::Method::GET, "if-none-match", "\"2\"")).await.expect(200);
    system.send(with(reqwest::Method::GET, "if-none-match", ", \"0\",, \"1\",")).await.expect(304);
    for (tag, status) in [("\"1\"", 200), ("\"1\",", 200), ("*", 200), ("\"2\"", 412), ("W/\"1\"", 412)] {
        let read = system.send(with(reqwest::Method::GET, "if-match", tag)).await.expect(status);
        assert_eq!(read.problem() == "precondition-failed", status == 412);
    }
    let list = system.request(reqwest::Method::GET, "/events", Some(&admin.token));
    system.send(list.header("if-match", "*")).await.expect(200);

    let change = json!({ "title": "Changed" });
    let stale =
        system.send(with(reqwest::Method::PATCH, "if-match", "\"7\"").json(&change)).await.expect(412);
    assert_eq!(stale.problem(), "precondition-failed");
    let weak =
        system.send(with(reqwest::Method::PATCH, "if-match", "W/\"1\"").json(&change)).await.expect(412);
    assert!(weak.body["detail"].as_str().unwrap().contains("weak"), "{weak:?}");
    for there in ["*", "\"1\"", "W/\"1\""] {
        let refused = with(reqwest::Method::PATCH, "if-none-match", there).json(&change);
        system.send(refused).await.expect(412);
        system.send(with(reqwest::Method::DELETE, "if-none-match", there)).await.expect(412);
    }
    system.send(with(reqwest::Method::PATCH, "if-match", "\"1\"").json(&change)).await.expect(200);
    system.send(with(reqwest::Method::DELETE, "if-match", "\"1\"")).await.expect(412);
    system.send(with(reqwest::Method::DELETE, "if-match", "1")).await.expect(400);
    let deleted = system.send(with(reqwest::Method::DELETE, "if-match", "\"2\"")).await.expect(204);
    assert_eq!(deleted.text, "");
    system.get(&path, &admin.token).await.expect(404);
}

async fn dates_are_judged_as_they_will_be_stored(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let id = system.draft(&admin).await;
    let path = format!("/events/{id}");
    let early = json!({ "endDate": "2026-06-01T10:00:00Z" });
    let answer = system.patch(&path, &admin.token, early).await.expect(422);
    assert_eq!(answer.violations(), ["#/endDate not_after_start"]);
    let later = json!({ "startDate": "2026-06-01T11:00:00+00:00", "endDate": "2026-06-01T13:30:00.5+02:00" });
    let answer = system.patch(&path, &admin.token, later).await.expect(200);
    assert_eq!(answer.body["startDate"], "2026-06-01T11:00:00.000Z");
    assert_eq!(answer.body["endDate"], "2026-06-01T11:30:00.500Z");
}
