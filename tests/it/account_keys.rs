//! Idempotency keys on writes to accounts: one effect, one answer, and no secret that is given twice or kept.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::system::{PASSWORD, signup, unique};
use crate::harness::{Answer, Database, Member, System, on_both_databases};

on_both_databases!(
    an_invitation_is_made_once_and_its_secret_given_once,
    an_account_is_made_once_and_its_tokens_given_once,
    a_members_change_is_made_once_and_answered_with_the_same_bytes,
    a_password_is_changed_once,
    equal_changes_of_a_password_at_once_are_no_guesses,
    sessions_are_ended_once,
);

async fn keyed(system: &System, method: Method, path: &str, token: &str, key: &str, body: Value) -> Answer {
    let request = system.request(method, path, (!token.is_empty()).then_some(token));
    let request = request.header("Idempotency-Key", key);
    system.send(if body.is_null() { request } else { request.json(&body) }).await
}

/// An answer that says that the secret was given to the first one.
#[track_caller]
fn assert_given(answer: &Answer, first: &Answer) {
    assert_eq!((answer.status, answer.problem()), (409, "answer-given"), "{answer:?}");
    assert_eq!((&answer.body["outcome"], &answer.body["retryable"]), (&json!("done"), &json!(false)));
    assert_eq!(answer.header("idempotent-replayed"), "true");
    assert_eq!(answer.header("idempotency-original-correlation-id"), first.header("x-correlation-id"));
}

async fn an_invitation_is_made_once_and_its_secret_given_once(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let invite = |email: &str| json!({ "email": email, "role": "USER" });
    let send = async |body: Value| {
        keyed(&system, Method::POST, "/auth/invitations", &admin.token, "invite", body).await
    };
    let email = format!("{}@example.com", unique("invited"));
    let first = send(invite(&email)).await.expect(201);
    assert_eq!(first.header("idempotent-replayed"), "");
    assert_given(&send(invite(&email)).await, &first);
    let other = send(invite("other@example.com")).await.expect(422);
    assert_eq!(other.problem(), "idempotency-key-reused");
    let mut body = signup(json!({ "invitation": first.body["invitation"] }));
    body["email"] = json!(email);
    system.post("/auth/signup", "", body).await.expect(201);
    // The same key of somebody else is another key.
    let stranger = system.found_organization().await;
    let theirs = invite("other@example.com");
    keyed(&system, Method::POST, "/auth/invitations", &stranger.token, "invite", theirs).await.expect(201);
    // What was refused was not done.
    let taken = invite(&stranger.email);
    for _ in 0..2 {
        let refused =
            keyed(&system, Method::POST, "/auth/invitations", &admin.token, "k", taken.clone()).await;
        assert_eq!(refused.expect(409).problem(), "email-taken");
    }
}

async fn an_account_is_made_once_and_its_tokens_given_once(database: Database) {
    let system = System::start_on(database).await;
    let body = signup(json!({ "organizationName": unique("Once") }));
    let sign_up = async |body: Value| keyed(&system, Method::POST, "/auth/signup", "", "signup", body).await;
    let answers = join_all((0..8).map(|_| sign_up(body.clone()))).await;
    let (made, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 1, "{others:?}");
    for other in &others {
        assert_given(other, &made[0]);
    }
    assert_given(&sign_up(body.clone()).await, &made[0]);
    let mut guess = body.clone();
    guess["password"] = json!("another long password");
    assert_eq!(sign_up(guess).await.expect(422).problem(), "idempotency-key-reused");
    // Keys of those who have not signed in belong to their address.
    sign_up(signup(json!({ "organizationName": unique("Other") }))).await.expect(201);
    system.login(body["email"].as_str().unwrap(), PASSWORD).await;
}

async fn a_members_change_is_made_once_and_answered_with_the_same_bytes(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let member = system.add_member(&admin, "USER").await;
    let path = format!("/auth/members/{}", member.id);
    let promote = async || {
        keyed(&system, Method::PATCH, &path, &admin.token, "promote", json!({ "role": "MODERATOR" })).await
    };
    let first = promote().await.expect(200);
    system.patch(&path, &admin.token, json!({ "role": "USER" })).await.expect(200);
    let again = promote().await.expect(200);
    assert_eq!((&again.text, again.header("idempotent-replayed")), (&first.text, "true"));
    let now = system.get("/auth/members?limit=100", &admin.token).await.expect(200);
    let members = now.body["data"].as_array().unwrap();
    let role = members.iter().find(|one| one["id"] == json!(member.id)).unwrap()["role"].clone();
    assert_eq!(role, "USER", "the change was made again");
}

async fn a_password_is_changed_once(database: Database) {
    let system = System::start_on(database).await;
    let member = system.found_organization().await;
    let change = async |new: &str| {
        let body = json!({ "currentPassword": PASSWORD, "newPassword": new });
        keyed(&system, Method::POST, "/auth/password", &member.token, "password", body).await
    };
    let first = change("a quite different passphrase").await.expect(204);
    let again = change("a quite different passphrase").await.expect(204);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.header("idempotency-original-correlation-id"), first.header("x-correlation-id"));
    assert_eq!(change("yet another passphrase").await.expect(422).problem(), "idempotency-key-reused");
    system.login(&member.email, "a quite different passphrase").await;
}

async fn equal_changes_of_a_password_at_once_are_no_guesses(database: Database) {
    let system = System::start_on(database).await;
    let member = system.found_organization().await;
    let new = "a quite different passphrase";
    let body = json!({ "currentPassword": PASSWORD, "newPassword": new });
    let changes = (0..6)
        .map(|_| keyed(&system, Method::POST, "/auth/password", &member.token, "password", body.clone()));
    for changed in join_all(changes).await {
        changed.expect(204);
    }
    // So many may be wrong before anybody has to wait.
    for _ in 0..5 {
        let guess = json!({ "email": member.email, "password": "not the passphrase" });
        system.post("/auth/login", "", guess).await.expect(401);
    }
}

async fn sessions_are_ended_once(database: Database) {
    let system = System::start_on(database).await;
    let member = system.found_organization().await;
    let mine = system.login(&member.email, PASSWORD).await;
    let listed = async |by: &Member| {
        let answer = system.get("/auth/sessions", &by.token).await.expect(200);
        answer.body["data"].as_array().unwrap().clone()
    };
    let other = listed(&mine).await.into_iter().find(|one| one["current"] == json!(false)).unwrap();
    let path = format!("/auth/sessions/{}", other["id"].as_str().unwrap());
    for replayed in ["", "true"] {
        let ended = keyed(&system, Method::DELETE, &path, &mine.token, "end", Value::Null).await.expect(204);
        assert_eq!(ended.header("idempotent-replayed"), replayed);
    }
    keyed(&system, Method::POST, "/auth/logout-all", &mine.token, "all", Value::Null).await.expect(204);
    let later = system.login(&member.email, PASSWORD).await;
    let again = keyed(&system, Method::POST, "/auth/logout-all", &later.token, "all", Value::Null).await;
    assert_eq!(again.expect(204).header("idempotent-replayed"), "true");
    assert_eq!(listed(&later).await.len(), 1, "a session that began later was ended");
}
