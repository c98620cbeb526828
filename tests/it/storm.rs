//! Parts are killed all the time; what clients were told holds.

use std::path::Path;

use eventboard::chaos::{Config, run};
use secrecy::ExposeSecret;

use crate::harness::{Database, on_both_databases};

on_both_databases!(every_promise_holds_in_a_storm);

async fn every_promise_holds_in_a_storm(database: Database) {
    let url = database.fresh().await.map(|url| url.expose_secret().to_owned());
    let config = Config { seconds: 20, interval: 300, clients: 8, database_url: url };
    let program = Path::new(env!("CARGO_BIN_EXE_eventboard"));
    let report = run(&config, program, Default::default()).await.unwrap();
    assert_eq!(report.violations, [""; 0], "{report:?}");
    // It was a storm, and there was something to lose.
    assert!(report.kills > 20 && report.acknowledged > 100, "{report:?}");
    assert_eq!(report.acknowledged, report.writes);
}
