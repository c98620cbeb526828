//! Tenancy: what belongs to another organisation, or is not visible, does not exist.

use serde_json::{Value, json};

use crate::harness::{Database, Member, System, on_both_databases};

on_both_databases!(foreign_invisible_absent_and_malformed_ids_are_the_same_404_everywhere,);

/// Every route and subject that names an event.
async fn every_way(system: &System, id: &str, member: &Member) -> Vec<(String, u16, String)> {
    let token = member.token.as_str();
    let path = |rest: &str| format!("/events/{id}{rest}");
    let reason = json!({ "reason": "none of your business" });
    let mut answers = vec![
        ("GET".to_owned(), system.get(&path(""), token).await),
        ("history".to_owned(), system.get(&path("/history"), token).await),
        ("PATCH".to_owned(), system.patch(&path(""), token, json!({ "title": "Stolen" })).await),
        ("DELETE".to_owned(), system.delete(&path(""), token).await),
        ("reject".to_owned(), system.post(&path("/reject"), token, reason.clone()).await),
    ];
    for action in ["submit", "withdraw", "approve"] {
        answers
            .push((action.to_owned(), system.post(&path(&format!("/{action}")), token, Value::Null).await));
    }
    for action in ["get", "history", "update", "delete", "submit", "withdraw", "approve"] {
        let subject = format!("events.{action}");
        answers.push((subject.clone(), system.message_as(&subject, token, json!({ "id": id })).await));
    }
    let payload = json!({ "id": id, "reason": reason["reason"] });
    answers.push(("events.reject".to_owned(), system.message_as("events.reject", token, payload).await));
    answers
        .into_iter()
        .map(|(way, answer)| (way, answer.status, answer.body["detail"].as_str().unwrap_or("").to_owned()))
        .collect()
}

async fn foreign_invisible_absent_and_malformed_ids_are_the_same_404_everywhere(database: Database) {
    let system = System::start_on(database).await;
    let (ours, theirs) = (system.found_organization().await, system.found_organization().await);
    let (user, neighbour) = (system.add_member(&ours, "USER").await, system.add_member(&ours, "USER").await);
    let foreign_approved = system.event_at("APPROVED", &theirs, &theirs).await;
    let foreign_draft = system.draft(&theirs).await;
    let invisible = system.draft(&neighbour).await;
    let absent = "00000000-0000-7000-8000-000000000000".to_owned();
    let malformed = "not-a-uuid".to_owned();
    let cases = [
        (&foreign_approved, &ours),
        (&foreign_approved, &user),
        (&foreign_draft, &ours),
        (&invisible, &user),
        (&absent, &ours),
        (&malformed, &ours),
    ];
    for (id, member) in cases {
        for (way, status, detail) in every_way(&system, id, member).await {
            assert_eq!(
                (status, detail.as_str()),
                (404, "there is no such event, or you may not see it"),
                "{way} {id}"
            );
        }
    }
    system.get(&format!("/events/{foreign_draft}"), &theirs.token).await.expect(200);
    let listed = system.get("/events?limit=100", &ours.token).await.expect(200);
    let ids: Vec<&Value> = listed.body["data"].as_array().unwrap().iter().map(|event| &event["id"]).collect();
    assert_eq!(ids, [&json!(invisible)]);
}
