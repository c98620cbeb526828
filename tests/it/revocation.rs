//! What is taken from somebody is gone everywhere within a second: sessions, roles, the right to come in.

use std::time::Duration;

use futures_util::future::join_all;
use messaging::NatsSettings;
use messaging::provision;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::system::{PASSWORD, event, signup};
use crate::harness::{Answer, Database, Member, System, eventually, on_both_databases};

on_both_databases!(
    whoever_signs_out_is_out_everywhere_within_a_second,
    sessions_are_listed_and_ended_one_by_one_and_together,
    a_new_password_ends_the_other_sessions,
    a_role_that_changes_acts_within_a_second,
    whoever_is_locked_out_is_out_and_can_come_back,
    invitations_end_with_their_administrator,
    members_are_for_administrators_of_their_organisation,
);

/// Every way a token can be used, by one gateway and another, and past both.
async fn accepted(system: &System, token: &str, gateways: &[String]) -> Vec<bool> {
    let over_http = gateways.iter().map(async |gateway| {
        let path = format!("{gateway}/events?limit=1");
        let answer = reqwest::Client::new().get(path).bearer_auth(token).send().await.unwrap();
        answer.status() == 200
    });
    let mut accepted = join_all(over_http).await;
    for subject in ["events.list", "auth.me"] {
        accepted.push(system.message_as(subject, token, json!({})).await.status == 200);
    }
    accepted
}

/// Waits until nobody takes this token any more, which must be so within a second.
async fn refused_in_time(system: &System, token: &str, gateways: &[String]) {
    let begun = Instant::now();
    while accepted(system, token, gateways).await.contains(&true) {
        assert!(begun.elapsed() < Duration::from_secs(1), "the token is still taken");
    }
}

async fn login(system: &System, email: &str, password: &str) -> Answer {
    system.post("/auth/login", "", json!({ "email": email, "password": password })).await
}

async fn refresh(system: &System, token: &str) -> Answer {
    system.post("/auth/refresh", "", json!({ "refreshToken": token })).await
}

async fn whoever_signs_out_is_out_everywhere_within_a_second(database: Database) {
    let mut system = System::start_on(database).await;
    let gateways = [system.http.clone(), system.start_another_gateway().await];
    let member = system.found_organization().await;
    let other = system.login(&member.email, PASSWORD).await;
    assert_eq!(accepted(&system, &member.token, &gateways).await, [true; 4]);
    system.post("/auth/logout", "", json!({ "refreshToken": member.refresh })).await.expect(204);
    refused_in_time(&system, &member.token, &gateways).await;
    refresh(&system, &member.refresh).await.expect(401);
    assert_eq!(accepted(&system, &other.token, &gateways).await, [true; 4], "another session goes on");

    // A broker that has lost what it was told is told again, and somebody new learns of it.
    let jetstream = async_nats::jetstream::new(system.nats.clone());
    jetstream.delete_stream("KV_revocations").await.unwrap();
    system.post("/auth/logout", "", json!({ "refreshToken": other.refresh })).await.expect(204);
    provision(&NatsSettings::at(system.broker.url()), 1).await.unwrap();
    let late = [system.start_another_gateway().await];
    for token in [&member.token, &other.token] {
        eventually("a new gateway refuses it", || async {
            !accepted(&system, token, &late).await.contains(&true)
        })
        .await;
    }
}

async fn sessions_are_listed_and_ended_one_by_one_and_together(database: Database) {
    let system = System::start_on(database).await;
    let first = system.found_organization().await;
    let second = system.login(&first.email, PASSWORD).await;
    let third = system.login(&first.email, PASSWORD).await;
    let stranger = system.found_organization().await;
    let listed = async |token: &str| {
        let answer = system.get("/auth/sessions", token).await.expect(200);
        answer.body["data"].as_array().unwrap().clone()
    };
    let sessions = listed(&third.token).await;
    assert_eq!(sessions.len(), 3);
    let current: Vec<&Value> = sessions.iter().filter(|one| one["current"] == json!(true)).collect();
    assert_eq!(current.len(), 1);
    assert!(!sessions[0]["createdAt"].is_null() && !sessions[0]["refreshedAt"].is_null(), "{sessions:?}");
    let own = current[0]["id"].as_str().unwrap().to_owned();
    let others = sessions.iter().filter(|one| one["current"] == json!(false));
    let others: Vec<String> = others.map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    let end = async |id: &str, token: &str| system.delete(&format!("/auth/sessions/{id}"), token).await;
    for id in [own.as_str(), "not-a-uuid", "00000000-0000-7000-8000-000000000000"] {
        end(id, &stranger.token).await.expect(404);
    }
    end(&others[0], &third.token).await.expect(204);
    end(&others[0], &third.token).await.expect(404);
    let gateways = [system.http.clone()];
    let ended = async || {
        let first = accepted(&system, &first.token, &gateways).await.contains(&true);
        let second = accepted(&system, &second.token, &gateways).await.contains(&true);
        first != second
    };
    eventually("one of the two is ended", ended).await;
    assert_eq!(listed(&third.token).await.len(), 2);
    system.post("/auth/logout-all", &third.token, Value::Null).await.expect(204);
    for member in [&first, &second, &third] {
        refused_in_time(&system, &member.token, &gateways).await;
        refresh(&system, &member.refresh).await.expect(401);
    }
    system.get("/auth/me", &stranger.token).await.expect(200);
    system.login(&first.email, PASSWORD).await;
}

async fn a_new_password_ends_the_other_sessions(database: Database) {
    let system = System::start_on(database).await;
    let member = system.found_organization().await;
    let other = system.login(&member.email, PASSWORD).await;
    let change = async |current: &str, new: &str| {
        let body = json!({ "currentPassword": current, "newPassword": new });
        system.post("/auth/password", &member.token, body).await
    };
    let new = "a quite different passphrase";
    assert_eq!(change("wrong password", new).await.expect(401).problem(), "invalid-credentials");
    assert_eq!(change(PASSWORD, "password1").await.expect(422).violations(), ["#/newPassword common"]);
    let own = change(PASSWORD, &format!("{}99", member.email)).await.expect(422);
    assert_eq!(own.violations(), ["#/newPassword personal"]);
    system.get("/auth/me", &other.token).await.expect(200);
    change(PASSWORD, new).await.expect(204);
    refused_in_time(&system, &other.token, std::slice::from_ref(&system.http)).await;
    refresh(&system, &other.refresh).await.expect(401);
    system.get("/auth/me", &member.token).await.expect(200);
    refresh(&system, &member.refresh).await.expect(200);
    login(&system, &member.email, PASSWORD).await.expect(401);
    login(&system, &member.email, new).await.expect(200);
}

/// Changes a member as `admin`.
async fn change(system: &System, admin: &Member, id: &str, body: Value) -> Answer {
    system.patch(&format!("/auth/members/{id}"), &admin.token, body).await
}

async fn a_role_that_changes_acts_within_a_second(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let moderator = system.add_member(&admin, "MODERATOR").await;
    let submitted = system.event_at("SUBMITTED", &admin, &admin).await;
    let demoted = change(&system, &admin, &moderator.id, json!({ "role": "USER" })).await.expect(200);
    assert_eq!((&demoted.body["role"], &demoted.body["disabledAt"]), (&json!("USER"), &Value::Null));
    refused_in_time(&system, &moderator.token, std::slice::from_ref(&system.http)).await;
    // The session goes on in the new role.
    let renewed = refresh(&system, &moderator.refresh).await.expect(200);
    assert_eq!(renewed.body["user"]["role"], "USER");
    let token = renewed.body["accessToken"].as_str().unwrap();
    system.get("/events", token).await.expect(200);
    // Invisible to a user, and nothing they may decide on.
    system.post(&format!("/events/{submitted}/approve"), token, Value::Null).await.expect(404);
    // Saying it again changes nothing, and costs nobody their token.
    change(&system, &admin, &moderator.id, json!({ "role": "USER" })).await.expect(200);
    tokio::time::sleep(Duration::from_millis(700)).await;
    system.get("/events", token).await.expect(200);
}

async fn whoever_is_locked_out_is_out_and_can_come_back(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let member = system.add_member(&admin, "USER").await;
    let disabled = change(&system, &admin, &member.id, json!({ "disabled": true })).await.expect(200);
    assert!(!disabled.body["disabledAt"].is_null());
    refused_in_time(&system, &member.token, std::slice::from_ref(&system.http)).await;
    refresh(&system, &member.refresh).await.expect(401);
    let (right, wrong) = (
        login(&system, &member.email, PASSWORD).await.expect(401),
        login(&system, &member.email, "wrong").await.expect(401),
    );
    assert_eq!(
        right.body["detail"], wrong.body["detail"],
        "the answer does not say that the password is right"
    );
    let enabled = change(&system, &admin, &member.id, json!({ "disabled": false })).await.expect(200);
    assert!(enabled.body["disabledAt"].is_null());
    let back = system.login(&member.email, PASSWORD).await;
    system.post("/events", &back.token, event("Back")).await.expect(201);
    refresh(&system, &member.refresh).await.expect(401);
}

async fn invitations_end_with_their_administrator(database: Database) {
    let system = System::start_on(database).await;
    let founder = system.found_organization().await;
    let admin = system.add_member(&founder, "ADMIN").await;
    let mut invitations = Vec::new();
    for number in 0..2 {
        let invite = json!({ "email": format!("back-door-{number}@example.com"), "role": "ADMIN" });
        let invited = system.post("/auth/invitations", &admin.token, invite).await.expect(201);
        invitations.push(invited.body["invitation"].clone());
    }
    let join = async |number: usize| {
        let mut request = signup(json!({ "invitation": invitations[number] }));
        request["email"] = json!(format!("back-door-{number}@example.com"));
        system.post("/auth/signup", "", request).await
    };
    change(&system, &founder, &admin.id, json!({ "role": "USER" })).await.expect(200);
    assert_eq!(join(0).await.expect(422).violations(), ["#/invitation invalid"]);
    change(&system, &founder, &admin.id, json!({ "role": "ADMIN", "disabled": true })).await.expect(200);
    assert_eq!(join(1).await.expect(422).violations(), ["#/invitation invalid"]);
    change(&system, &founder, &admin.id, json!({ "disabled": false })).await.expect(200);
    join(1).await.expect(201);
}

async fn members_are_for_administrators_of_their_organisation(database: Database) {
    let system = System::start_on(database).await;
    let (admin, stranger) = (system.found_organization().await, system.found_organization().await);
    let mut members = vec![admin.clone()];
    for role in ["MODERATOR", "USER", "ADMIN"] {
        members.push(system.add_member(&admin, role).await);
    }
    let ids = |answer: &Answer| -> Vec<String> {
        let data = answer.body["data"].as_array().unwrap();
        data.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let expected: Vec<&str> = members.iter().map(|member| member.id.as_str()).collect();
    let all = system.get("/auth/members", &admin.token).await.expect(200);
    assert_eq!(ids(&all), expected);
    assert_eq!((&all.body["meta"]["hasNext"], all.header("link")), (&json!(false), ""));
    let first = system.get("/auth/members?limit=3", &admin.token).await.expect(200);
    assert_eq!(ids(&first), expected[..3]);
    let cursor = first.body["meta"]["nextCursor"].as_str().unwrap();
    assert!(first.header("link").contains(cursor), "{first:?}");
    let rest = system.get(&format!("/auth/members?limit=3&cursor={cursor}"), &admin.token).await.expect(200);
    assert_eq!(ids(&rest), expected[3..]);
    for query in ["limit=0", "limit=101", "cursor=x", "page=1"] {
        system.get(&format!("/auth/members?{query}"), &admin.token).await.expect(422);
    }
    for member in &members[1..3] {
        system.get("/auth/members", &member.token).await.expect(403);
        change(&system, member, &members[3].id, json!({ "role": "USER" })).await.expect(403);
    }
    let id = members[2].id.as_str();
    for (by, id, body, status) in [
        (&admin, admin.id.as_str(), json!({ "role": "USER" }), 403),
        (&admin, stranger.id.as_str(), json!({ "role": "USER" }), 404),
        (&stranger, id, json!({ "role": "ADMIN" }), 404),
        (&admin, "not-a-uuid", json!({ "role": "USER" }), 404),
        (&admin, id, json!({}), 422),
        (&admin, id, json!({ "role": "ROOT" }), 422),
        (&admin, id, json!({ "disabled": "yes" }), 422),
        (&admin, id, json!({ "disabled": true, "email": "x@example.com" }), 422),
    ] {
        change(&system, by, id, body).await.expect(status);
    }
    // By message, with the same rules.
    let payload = json!({ "id": id, "role": "MODERATOR" });
    system.message_as("auth.update_member", &stranger.token, payload.clone()).await.expect(404);
    let changed = system.message_as("auth.update_member", &admin.token, payload).await.expect(200);
    assert_eq!(changed.body["role"], "MODERATOR");
    assert!(!changed.text.contains("argon2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_commands_wait_for_whoever_knows_what_is_revoked() {
    let system = System::start().await;
    let admin = system.found_organization().await;
    let (moderator, user) =
        (system.add_member(&admin, "MODERATOR").await, system.add_member(&admin, "USER").await);
    let submitted = system.event_at("SUBMITTED", &user, &admin).await;
    let jetstream = async_nats::jetstream::new(system.nats.clone());
    jetstream.delete_stream("KV_revocations").await.unwrap();
    let decide =
        async || system.post(&format!("/events/{submitted}/approve"), &moderator.token, Value::Null).await;
    let nothing = "00000000-0000-7000-8000-000000000000";
    let path = format!("/events/{nothing}/approve");
    eventually("the gateway refuses privileged commands", || async {
        system.post(&path, &moderator.token, Value::Null).await.status == 503
    })
    .await;
    let payload = json!({ "id": nothing });
    eventually("the worker refuses them too", || async {
        system.message_as("events.approve", &moderator.token, payload.clone()).await.status == 503
    })
    .await;
    let refused = decide().await.expect(503);
    assert_eq!((refused.problem(), &refused.body["outcome"]), ("unavailable", &json!("none")));
    let invite = json!({ "email": "new@example.com", "role": "USER" });
    system.post("/auth/invitations", &admin.token, invite).await.expect(503);
    // Whatever does not need a higher role goes on, and so does reading.
    system.post("/events", &user.token, event("Goes on")).await.expect(201);
    for member in [&user, &moderator] {
        system.get("/events", &member.token).await.expect(200);
    }
    let request = system.request(Method::GET, "/health", None);
    assert_eq!(system.send(request).await.body["checks"]["revocations"]["status"], "fail");
    provision(&NatsSettings::at(system.broker.url()), 1).await.unwrap();
    eventually("privileged commands are carried out again", || async { decide().await.status == 200 }).await;
}
