//! Who may do what: every role, ownership, status and action, over HTTP and over NATS.

use serde_json::{Value, json};

use crate::harness::{Answer, Member, System};

const ACTIONS: [&str; 8] = ["get", "history", "update", "delete", "submit", "withdraw", "approve", "reject"];

/// Written from the rules, by hand: the status of every action.
const GOLDEN: &str = "
    USER      owner DRAFT     200 200 200 204 200 409 403 403
    USER      owner SUBMITTED 200 200 409 409 409 200 403 403
    USER      owner APPROVED  200 200 200 409 409 409 403 403
    USER      owner REJECTED  200 200 200 204 200 409 403 403
    USER      other DRAFT     404 404 404 404 404 404 404 404
    USER      other SUBMITTED 404 404 404 404 404 404 404 404
    USER      other APPROVED  200 403 403 403 403 403 403 403
    USER      other REJECTED  404 404 404 404 404 404 404 404
    MODERATOR owner DRAFT     200 200 200 204 200 409 403 403
    MODERATOR owner SUBMITTED 200 200 409 409 409 200 403 403
    MODERATOR owner APPROVED  200 200 200 409 409 409 403 403
    MODERATOR owner REJECTED  200 200 200 204 200 409 403 403
    MODERATOR other DRAFT     200 200 403 403 403 403 409 409
    MODERATOR other SUBMITTED 200 200 403 403 403 403 200 200
    MODERATOR other APPROVED  200 200 403 403 403 403 409 409
    MODERATOR other REJECTED  200 200 403 403 403 403 409 409
    ADMIN     owner DRAFT     200 200 200 204 200 409 409 409
    ADMIN     owner SUBMITTED 200 200 200 204 409 200 200 200
    ADMIN     owner APPROVED  200 200 200 204 409 409 409 409
    ADMIN     owner REJECTED  200 200 200 204 200 409 409 409
    ADMIN     other DRAFT     200 200 200 204 403 403 409 409
    ADMIN     other SUBMITTED 200 200 200 204 403 403 200 200
    ADMIN     other APPROVED  200 200 200 204 403 403 409 409
    ADMIN     other REJECTED  200 200 200 204 403 403 409 409
";

async fn over_http(system: &System, action: &str, id: &str, member: &Member) -> Answer {
    let (path, token) = (format!("/events/{id}"), member.token.as_str());
    match action {
        "get" => system.get(&path, token).await,
        "history" => system.get(&format!("{path}/history"), token).await,
        "update" => system.patch(&path, token, json!({ "title": "Changed" })).await,
        "delete" => system.delete(&path, token).await,
        "reject" => {
            system.post(&format!("{path}/reject"), token, json!({ "reason": "not good enough" })).await
        }
        other => system.post(&format!("{path}/{other}"), token, Value::Null).await,
    }
}

async fn over_nats(system: &System, action: &str, id: &str, member: &Member) -> Answer {
    let payload = match action {
        "update" => json!({ "id": id, "title": "Changed" }),
        "reject" => json!({ "id": id, "reason": "not good enough" }),
        _ => json!({ "id": id }),
    };
    system.message_as(&format!("events.{action}"), &member.token, payload).await
}

async fn table(system: &System, nats: bool) -> String {
    let admin = system.found_organization().await;
    let helper = system.add_member(&admin, "ADMIN").await;
    let mut lines = String::new();
    for role in ["USER", "MODERATOR", "ADMIN"] {
        let member = system.add_member(&admin, role).await;
        for ownership in ["owner", "other"] {
            let creator = if ownership == "owner" { &member } else { &helper };
            for status in ["DRAFT", "SUBMITTED", "APPROVED", "REJECTED"] {
                lines.push_str(&format!("\n    {role:<9} {ownership} {status:<9}"));
                for action in ACTIONS {
                    let id = system.event_at(status, creator, &admin).await;
                    let answer = match nats {
                        true => over_nats(system, action, &id, &member).await,
                        false => over_http(system, action, &id, &member).await,
                    };
                    lines.push_str(&format!(" {}", answer.status));
                    if answer.status == 409 {
                        assert!(answer.body["detail"].as_str().unwrap().contains(status), "{answer:?}");
                    }
                }
            }
        }
    }
    lines + "\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn http_answers_as_the_golden_table_says() {
    let system = System::start().await;
    assert_eq!(table(&system, false).await, GOLDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_answers_as_the_golden_table_says() {
    let system = System::start().await;
    assert_eq!(table(&system, true).await, GOLDEN);
}
