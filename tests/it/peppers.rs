//! Peppers come and go without anybody having to set a new password.

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::json;

use crate::harness::compose::Compose;
use crate::harness::eventually;
use crate::harness::process::program;

async fn logins(http: &str, count: usize) -> Vec<u16> {
    let client = Client::new();
    let login = || async {
        let body = json!({ "email": "user@acme.com", "password": "Password123!" });
        let answer = client.post(format!("{http}/auth/login")).json(&body).send().await.unwrap();
        answer.status().as_u16()
    };
    join_all((0..count).map(|_| login())).await
}

async fn stored(compose: &Compose) -> String {
    sqlx::query_scalar("SELECT password_hash FROM users WHERE email = 'user@acme.com'")
        .fetch_one(&mut compose.postgres.connect_to("auth").await)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_moves_its_hash_to_the_newest_pepper_once() {
    let compose = Compose::start().await;
    assert!(compose.run("provision").await);
    let program = program("auth-worker").await;
    let start = async |peppers: &str| {
        let settings = [("EVENTBOARD_PASSWORD_PEPPER", peppers.to_owned())];
        let settings = if peppers.is_empty() { &[][..] } else { &settings[..] };
        compose.up_as("auth-worker", &program, settings).await
    };
    let plain = start("").await;
    let gateway = compose.up("gateway").await;
    let http = gateway.http().await;
    assert_eq!(logins(&http, 1).await, [200]);
    let first = stored(&compose).await;
    assert!(!first.contains("keyid"), "{first}");
    assert!(plain.down().await);

    let (old, new) = (format!("old:{}", "o".repeat(32)), format!("new:{}", "n".repeat(32)));
    let mut before = first.clone();
    for peppers in [old.clone(), format!("{new},{old}")] {
        let worker = start(&peppers).await;
        // All at once, and each finds the hash to be outdated: none is refused.
        assert_eq!(logins(&http, 4).await, [200; 4]);
        let moved = stored(&compose).await;
        assert!(moved.contains("keyid") && moved != before, "{moved}");
        assert_eq!(logins(&http, 3).await, [200; 3]);
        assert_eq!(stored(&compose).await, moved, "once is enough");
        before = moved;
        assert!(worker.down().await);
    }
    // Without the pepper it is worth nothing, which is the worker's trouble and not a wrong password.
    let worker = start(&old).await;
    assert_eq!(logins(&http, 1).await, [500]);
    eventually("the log says so", async || {
        !worker.process.lines_with("its pepper is not configured").is_empty()
    })
    .await;
}
