//! Parts are killed all the time; what clients were told holds, and a broken promise would be found.

use std::path::Path;

use chaos::{AtLeast, Config, Report, run};
use secrecy::ExposeSecret;

use crate::harness::process::failing_worker;
use crate::harness::{Database, on_both_databases};

on_both_databases!(every_promise_holds_in_a_storm);

/// A storm of so many seconds, or longer until enough has happened, in which events workers have these failpoints.
async fn storm(database: Database, seconds: u64, failpoints: &str, at_least: AtLeast) -> Report {
    let database_url = database.fresh().await.map(|url| url.expose_secret().to_owned());
    let failing_worker = Some((failing_worker("events-worker").await, failpoints.to_owned()));
    let config = Config { seconds, interval: 300, clients: 8, database_url, failing_worker, at_least };
    run(&config, Path::new(env!("CARGO_BIN_EXE_eventboard")), Default::default()).await.unwrap()
}

async fn every_promise_holds_in_a_storm(database: Database) {
    // Besides the kills, workers die where it hurts most: behind the commit, before the answer is on its way.
    let at_least = AtLeast { kills: 21, crashes: 6, acknowledged: 101 };
    let report = storm(database, 20, "committed=1%return;before-reply=1%return", at_least).await;
    assert_eq!(report.violations, [""; 0], "{report:?}");
    // It was a storm, and there was something to lose.
    assert!(report.kills > 20 && report.acknowledged > 100 && report.crashes > 5, "{report:?}");
    assert_eq!(report.acknowledged, report.writes);
}

/// Enough for some to have been asked twice.
const SOME: AtLeast = AtLeast { kills: 0, crashes: 0, acknowledged: 100 };

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_forgotten_are_found() {
    let report = storm(Database::Sqlite, 8, "forget-saved=return", SOME).await;
    let found = |text: &str| report.violations.iter().any(|violation| violation.contains(text));
    assert!(found("was twice answered as if for the first time"), "{report:?}");
    assert!(found("Create was answered in two ways"), "{report:?}");
    assert!(found("was created 2 times"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_the_first_one_are_found() {
    let report = storm(Database::Sqlite, 8, "damage-replay=return", SOME).await;
    assert!(
        report.violations.iter().any(|violation| violation.contains("was answered in two ways")),
        "{report:?}"
    );
    assert!(!report.violations.iter().any(|violation| violation.contains("times")), "{report:?}");
}
