//! Signing keys: a new one takes over without a request that fails, and a withdrawn one is refused everywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::system::PASSWORD;
use crate::harness::{Database, System, eventually, on_both_databases};

on_both_databases!(a_new_key_takes_over_without_a_failed_request, a_withdrawn_key_is_refused_within_seconds,);

/// What the program says to a command about the system's keys, and whether it did it.
async fn keys(system: &System, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventboard"));
    command.args(["service", "auth-worker", "keys"]).args(arguments);
    command.env_clear().env("EVENTBOARD_DATA_DIR", system.data_dir()).env("RUST_LOG", "off");
    if let Some(url) = system.database("auth-worker") {
        command.env("EVENTBOARD_DATABASE_URL", url.expose_secret());
    }
    let output = command.output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

/// The id of the key that signed a token.
fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

async fn published(system: &System) -> BTreeSet<String> {
    let keys = system.get("/.well-known/jwks.json", "").await.expect(200);
    let keys = keys.body["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

async fn a_new_key_takes_over_without_a_failed_request(database: Database) {
    let mut system = System::start_on(database).await;
    system.start_another_worker("auth-worker").await;
    let member = system.found_organization().await;
    let (system, ended) = (Arc::new(system), Arc::new(AtomicBool::new(false)));
    let clients = (0..4).map(|_| {
        let (system, ended, member) = (Arc::clone(&system), Arc::clone(&ended), member.clone());
        tokio::spawn(async move {
            let mut signed_by = BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                let fresh = system.login(&member.email, PASSWORD).await;
                signed_by.insert(kid(&fresh.token));
                for token in [&fresh.token, &member.token] {
                    system.get("/events?limit=1", token).await.expect(200);
                    system.message_as("events.list", token, json!({ "limit": 1 })).await.expect(200);
                    system.message_as("auth.me", token, json!({})).await.expect(200);
                }
                let renewed =
                    system.post("/auth/refresh", "", json!({ "refreshToken": fresh.refresh })).await;
                system
                    .get("/auth/me", renewed.expect(200).body["accessToken"].as_str().unwrap())
                    .await
                    .expect(200);
            }
            signed_by
        })
    });
    let clients: Vec<_> = clients.collect();
    let first = kid(&member.token);
    let (done, said) = keys(&system, &["rotate", "--after", "5"]).await;
    assert!(done, "{said}");
    let second = said.split(' ').next().unwrap().to_owned();
    assert!(said.contains("is published, and signs from"), "{said}");
    let (again, why) = keys(&system, &["rotate", "--after", "5"]).await;
    assert!(!again && why.contains("is waiting already"), "{why}");
    assert!(!keys(&system, &["rotate", "--after", "1"]).await.0, "too short for everybody to have looked");
    let both = BTreeSet::from([first.clone(), second.clone()]);
    eventually("both keys are published", || async { published(&system).await == both }).await;
    let (_, listed) = keys(&system, &["list"]).await;
    assert!(listed.contains(&format!("{first}  current")) && listed.contains(&format!("{second}  standby")));
    eventually("the new key signs", || async {
        kid(&system.login(&member.email, PASSWORD).await.token) == second
    })
    .await;
    let (_, listed) = keys(&system, &["list"]).await;
    assert!(listed.contains(&format!("{first}  retiring")) && listed.contains(&format!("{second}  current")));
    // Long enough for everybody to have looked again: what the first key has signed is still accepted.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(published(&system).await, both);
    ended.store(true, Ordering::Relaxed);
    let mut signed_by = BTreeSet::new();
    for client in clients {
        signed_by.extend(client.await.expect("no request fails"));
    }
    assert_eq!(signed_by, both, "there were tokens of both keys");
}

async fn a_withdrawn_key_is_refused_within_seconds(database: Database) {
    let system = System::start_on(database).await;
    let member = system.found_organization().await;
    let first = kid(&member.token);
    assert!(!keys(&system, &["revoke", "unknown"]).await.0);
    let (done, said) = keys(&system, &["revoke", &first]).await;
    assert!(done && said.contains("is revoked") && said.contains("signs from now on"), "{said}");
    assert!(said.contains("replace EVENTBOARD_SIGNING_KEY"), "{said}");
    let second = said.lines().find(|line| line.ends_with("signs from now on")).unwrap();
    let second = second.split(' ').next().unwrap().to_owned();
    let begun = tokio::time::Instant::now();
    for subject in ["events.list", "auth.me"] {
        eventually("workers refuse what it signed", || async {
            system.message_as(subject, &member.token, json!({})).await.status == 401
        })
        .await;
    }
    eventually("the gateway does too", || async { system.get("/events", &member.token).await.status == 401 })
        .await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // The session goes on with a token of the new key, and survives the worker.
    let renewed =
        system.post("/auth/refresh", "", json!({ "refreshToken": member.refresh })).await.expect(200);
    let token = renewed.body["accessToken"].as_str().unwrap();
    assert_eq!(kid(token), second);
    eventually("the new key is known", || async { system.get("/events", token).await.status == 200 }).await;
    assert_eq!(published(&system).await, BTreeSet::from([second.clone()]));
    let mut system = system;
    system.stop_worker("auth-worker").await;
    system.start_worker("auth-worker").await;
    system.get("/auth/me", token).await.expect(200);
    system.get("/auth/me", &member.token).await.expect(401);
    assert!(!keys(&system, &["revoke", &first]).await.0, "it is revoked already");
}
