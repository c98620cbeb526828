//! Guessing passwords: counted before they are tried, for every gateway and worker together.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::system::PASSWORD;
use crate::harness::{Database, System, eventually};

/// One for all guesses, as making one reads every certificate of this machine; a connection for each.
static CLIENT: LazyLock<Client> =
    LazyLock::new(|| Client::builder().pool_max_idle_per_host(0).build().expect("a client"));

/// Signs in through `gateway` as somebody whose address the proxy before it says. Where the machine has no time to
/// try a password, which is the answer 503, nothing was counted, and the attempt is made again.
async fn login(gateway: &str, from: &str, email: &str, password: &str) -> (u16, Option<u64>, Value) {
    let request = CLIENT.post(format!("{gateway}/auth/login")).header("X-Forwarded-For", from);
    let request = request.json(&json!({ "email": email, "password": password }));
    let given_up = Instant::now() + Duration::from_secs(30);
    let answer = loop {
        let answer = request.try_clone().expect("a body in memory").send().await.unwrap();
        if answer.status() != 503 || Instant::now() >= given_up {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let wait = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    (answer.status().as_u16(), wait, answer.json().await.unwrap())
}

/// How many of these answers had each status.
fn counted(answers: &[(u16, Option<u64>, Value)]) -> BTreeMap<u16, usize> {
    answers.iter().fold(BTreeMap::new(), |mut counts, (status, ..)| {
        *counts.entry(*status).or_default() += 1;
        counts
    })
}

/// Two gateways behind a proxy, and two workers on one database.
async fn replicated() -> (System, Vec<String>) {
    let mut system = System::start_on(Database::Postgres).await;
    system.start_another_worker("auth-worker").await;
    let mut gateways = Vec::new();
    for _ in 0..2 {
        gateways.push(system.start_gateway_behind_a_proxy().await);
    }
    (system, gateways)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_guesses_at_once_five_are_tried() {
    let (system, gateways) = replicated().await;
    let victim = system.found_organization().await;
    // An account that does not exist is no different.
    for email in ["nobody@example.com", victim.email.as_str()] {
        let guesses =
            (0..100).map(|guess| login(&gateways[guess % 2], "192.0.2.1", email, "a wrong password"));
        let answers = join_all(guesses).await;
        assert_eq!(counted(&answers), BTreeMap::from([(401, 5), (429, 95)]), "{email}");
        for (status, wait, body) in &answers {
            assert_eq!(wait.is_some(), *status == 429, "{body}");
            assert!(wait.is_none_or(|seconds| (1..=2).contains(&seconds)), "{wait:?}");
            assert_eq!(body["outcome"], "none");
        }
        let limited = answers.iter().find(|answer| answer.0 == 429).unwrap();
        assert_eq!(limited.2["type"], "urn:eventboard:problem:rate-limited");
    }
    // Its owner has another address, and gets in; whoever guessed does not even with the right password.
    assert_eq!(login(&gateways[0], "198.51.100.7", &victim.email, PASSWORD).await.0, 200);
    assert_eq!(login(&gateways[1], "192.0.2.1", &victim.email, PASSWORD).await.0, 429);
    assert_eq!(login(&gateways[0], "192.0.2.1", "admin@acme.com", "Password123!").await.0, 200);
    // After the pause one more is tried, and the next pause is longer.
    let tried =
        || async { login(&gateways[0], "192.0.2.1", &victim.email, "another wrong one").await.0 == 401 };
    eventually("one more guess is tried", tried).await;
    let (status, wait, _) = login(&gateways[1], "192.0.2.1", &victim.email, PASSWORD).await;
    assert_eq!((status, wait), (429, Some(2)));
    eventually("the right password gets in after the pause", || async {
        login(&gateways[1], "192.0.2.1", &victim.email, PASSWORD).await.0 == 200
    })
    .await;
    // A success forgets: five more are free.
    for _ in 0..5 {
        assert_eq!(login(&gateways[0], "192.0.2.1", &victim.email, "wrong again").await.0, 401);
    }
    assert_eq!(login(&gateways[0], "192.0.2.1", &victim.email, "wrong again").await.0, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_from_everywhere_at_one_account_and_from_one_place_at_many_are_counted_too() {
    let (system, gateways) = replicated().await;
    let victim = system.found_organization().await;
    assert_eq!(login(&gateways[0], "203.0.113.5", &victim.email, PASSWORD).await.0, 200);
    let guesses = (0..60).map(async |guess| {
        let from = format!("198.51.100.{}", guess % 20);
        login(&gateways[guess % 2], &from, &victim.email, "a wrong password").await
    });
    let answers = join_all(guesses).await;
    assert_eq!(counted(&answers), BTreeMap::from([(401, 20), (429, 40)]));
    // Where the owner has signed in before, nobody keeps them out; elsewhere they wait.
    assert_eq!(login(&gateways[0], "203.0.113.6", &victim.email, PASSWORD).await.0, 429);
    assert_eq!(login(&gateways[1], "203.0.113.5", &victim.email, PASSWORD).await.0, 200);
    // One subscriber of IPv6 is in one place, whatever addresses it makes up. The last guesses that are free come at
    // once with those that are not; before them no more at once than a busy machine can try in time.
    let (gateways, mut answers) = (&gateways, Vec::new());
    for together in [0..25, 25..50, 50..75, 75..130] {
        let guesses = together.map(async |guess| {
            if guess == 60 {
                // Whoever guesses may have an account of their own.
                login(&gateways[0], "2001:db8::5", "user@acme.com", "Password123!").await;
            }
            let (from, email) = (format!("2001:db8:0:{guess:x}::1"), format!("person-{guess}@example.com"));
            login(&gateways[guess % 2], &from, &email, "a wrong password").await
        });
        answers.extend(join_all(guesses).await);
    }
    assert_eq!(counted(&answers), BTreeMap::from([(401, 100), (429, 30)]));
    assert_eq!(login(&gateways[0], "2001:db8:1::1", "user@acme.com", "Password123!").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_right_passwords_at_once_all_get_in() {
    let (_system, gateways) = replicated().await;
    let logins =
        (0..40).map(|login_| login(&gateways[login_ % 2], "192.0.2.9", "user@acme.com", "Password123!"));
    let answers = join_all(logins).await;
    assert_eq!(counted(&answers), BTreeMap::from([(200, 40)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_shared_tallies_each_worker_counts_by_itself() {
    let system = System::start().await;
    let victim = system.found_organization().await;
    let jetstream = async_nats::jetstream::new(system.nats.clone());
    jetstream.delete_stream("KV_login-throttle").await.unwrap();
    let guess = || async {
        let body = json!({ "email": victim.email, "password": "a wrong password" });
        system.post("/auth/login", "", body).await.status
    };
    let mut statuses = join_all((0..30).map(|_| guess())).await;
    statuses.sort_unstable();
    assert_eq!(statuses[..6], [401, 401, 401, 401, 401, 429], "{statuses:?}");
    system.login("user@acme.com", "Password123!").await;
    // The current password is a password to guess, too: it is the same account.
    let body = json!({ "currentPassword": PASSWORD, "newPassword": "a quite different passphrase" });
    system.post("/auth/password", &victim.token, body).await.expect(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_sent_by_hand_are_counted_together() {
    let system = System::start().await;
    let body = json!({ "email": "moderator@acme.com", "password": "wrong" }).to_string();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(system.message("auth.login", &body, &[]).await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429]);
}
