//! What a key costs: writes with a client's key, with the gateway's, and without, side by side in one run.
//!
//! `cargo bench --bench keyed_write`. Read the ratios; the absolute numbers are the machine's. SQLite writes to
//! the disk at each commit; the Postgres of the suites does not, so there a key costs more than in earnest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    unused,
    reason = "a measurement stops by panicking, and prints what it measured"
)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use harness::stack::median;
use harness::{Database, System};

/// Writes per variant and round, and how many are under way at once.
const WRITES: usize = 400;
const CONCURRENCY: usize = 16;
const ROUNDS: usize = 7;

#[derive(Debug, Clone, Copy)]
enum Variant {
    Unkeyed,
    GatewayKey,
    ClientKey,
}

const VARIANTS: [Variant; 3] = [Variant::Unkeyed, Variant::GatewayKey, Variant::ClientKey];

async fn measure(system: &System, token: &str, variant: Variant) -> Duration {
    let bearer = format!("Bearer {token}");
    let body = harness::system::event("Measured").to_string();
    let begun = Instant::now();
    futures_util::stream::iter(0..WRITES)
        .map(|_| {
            let (bearer, body) = (&bearer, &body);
            async move {
                let key = uuid::Uuid::now_v7().to_string();
                let mut headers = vec![("Authorization", bearer.as_str())];
                match variant {
                    Variant::Unkeyed => {}
                    Variant::GatewayKey => {
                        headers.extend([
                            ("Idempotency-Key", key.as_str()),
                            ("Idempotency-Key-Origin", "gateway"),
                        ]);
                    }
                    Variant::ClientKey => headers.push(("Idempotency-Key", key.as_str())),
                }
                system.message("events.create", body, &headers).await.expect(201);
            }
        })
        .buffer_unordered(CONCURRENCY)
        .collect::<Vec<()>>()
        .await;
    begun.elapsed()
}

#[tokio::main]
async fn main() {
    for database in [Database::Sqlite, Database::Postgres] {
        let system = System::start_on(database).await;
        let member = system.found_organization().await;
        measure(&system, &member.token, Variant::ClientKey).await;
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); VARIANTS.len()];
        for _ in 0..ROUNDS {
            for (index, variant) in VARIANTS.into_iter().enumerate() {
                let elapsed = measure(&system, &member.token, variant).await;
                rates[index].push(WRITES as f64 / elapsed.as_secs_f64());
            }
        }
        let rates: Vec<f64> = rates.into_iter().map(median).collect();
        for (variant, rate) in VARIANTS.iter().zip(&rates) {
            println!("{database:?} {variant:?}: {rate:.0} writes/s, {:.2} of unkeyed", rate / rates[0]);
        }
    }
}
