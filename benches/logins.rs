//! Logins: what is left of bare Argon2 once everything around it is there, and what a storm of logins costs others.
//! Clients, services and broker share the cores.
//!
//! `cargo bench --bench logins`. Read the ratios; the absolute numbers are the machine's.
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

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use auth_worker::hasher::Hasher;
use auth_worker::peppers::Peppers;
use contract::auth::Secret;
use futures_util::future::join_all;
use harness::stack::median;
use harness::system::PASSWORD;
use harness::{Database, System};
use serde_json::json;

const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// Logins under way at once: enough to keep every thread busy.
const CONCURRENCY: usize = 16;
/// Requests of a storm, and how many storms of each kind there are.
const STORM: usize = 200;
const STORM_ROUNDS: usize = 9;

fn threads() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// Hashes per second with nothing around them, on as many threads as the worker has.
fn bare() -> f64 {
    let (done, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let params = Params::new(19_456, 2, 1, Some(32)).unwrap();
                let mut memory = vec![Block::default(); params.block_count()];
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                let mut output = [0; 32];
                while !ended.load(Ordering::Relaxed) {
                    argon2
                        .hash_password_into_with_memory(
                            PASSWORD.as_bytes(),
                            &[7; 16],
                            &mut output,
                            &mut memory,
                        )
                        .unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while begun.elapsed() < ROUND {
            std::thread::park_timeout(ROUND.saturating_sub(begun.elapsed()));
        }
        ended.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// How often per second `work` is done by several at once.
async fn rate<F: Future>(work: impl Fn() -> F) -> f64 {
    let (begun, done) = (Instant::now(), AtomicUsize::new(0));
    join_all((0..CONCURRENCY).map(|_| async {
        while begun.elapsed() < ROUND {
            work().await;
            done.fetch_add(1, Ordering::Relaxed);
        }
    }))
    .await;
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

async fn throughput() {
    let hasher = Hasher::start(threads(), Peppers::default()).unwrap();
    let far = || tokio::time::Instant::now() + Duration::from_secs(60);
    let secret = || Secret::new(PASSWORD.to_owned());
    let stored = hasher.hash(secret(), far()).await.unwrap();
    let system = System::start_on(Database::Sqlite).await;
    let members: Vec<_> = join_all((0..CONCURRENCY).map(|_| system.found_organization())).await;
    let next = AtomicUsize::new(0);
    let (mut bares, mut hashers, mut logins) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bares.push(tokio::task::spawn_blocking(bare).await.unwrap());
        let verify = || async {
            hasher.verify(secret(), Some(stored.clone()), far()).await.unwrap();
        };
        hashers.push(rate(verify).await);
        let login = || async {
            let member = &members[next.fetch_add(1, Ordering::Relaxed) % members.len()];
            system.login(&member.email, PASSWORD).await;
        };
        logins.push(rate(login).await);
    }
    let bare = median(bares);
    println!("bare argon2: {bare:.1}/s on {} threads", threads());
    for (name, rates) in [("the worker's hasher", hashers), ("logins over HTTP", logins)] {
        let rate = median(rates);
        println!("{name}: {rate:.1}/s, {:.3} of bare", rate / bare);
    }
}

/// How long reads take meanwhile, in milliseconds: the middle, and all but one in a hundred.
async fn reads(system: &System, token: &str, path: &str, until: impl Fn() -> bool) -> (f64, f64, usize) {
    let mut times = Vec::new();
    while !until() {
        let begun = Instant::now();
        system.get(path, token).await.expect(200);
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100], times.len())
}

/// The memory of this process that is resident, in KiB. It holds the services and whoever asks them.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What a storm consists of.
#[derive(Debug, Clone, Copy)]
enum Storm {
    Nothing,
    /// Refused by the same worker without hashing anything: what so many requests at once cost by themselves.
    Refreshes,
    Logins,
}

async fn strike(system: &System, storm: Storm, round: usize) -> usize {
    let (path, body) = match storm {
        Storm::Nothing => return 0,
        Storm::Refreshes => ("/auth/refresh", json!({ "refreshToken": "made-up" })),
        Storm::Logins => ("/auth/login", json!({ "email": "user@acme.com", "password": "Password123!" })),
    };
    let answers = join_all((0..STORM).map(async |number| {
        let from = format!("10.{round}.{}.{}", number / 250, number % 250 + 1);
        let request = system.request(reqwest::Method::POST, path, None).json(&body);
        system.send(request.header("X-Forwarded-For", from)).await.status
    }));
    answers.await.into_iter().filter(|status| *status == 200).count()
}

async fn storms() {
    let mut system = System::start_on(Database::Sqlite).await;
    system.http = system.start_gateway_behind_a_proxy().await;
    let member = system.found_organization().await;
    let path = format!("/events/{}", system.draft(&member).await);
    let window = Duration::from_secs(1);
    for round in 0..2 {
        strike(&system, Storm::Logins, round).await;
    }
    let before = resident();
    let storms = [Storm::Nothing, Storm::Refreshes, Storm::Logins];
    let (mut seen, mut accepted) = (vec![Vec::new(); storms.len()], Vec::new());
    for round in 2..2 + STORM_ROUNDS {
        for (index, storm) in storms.into_iter().enumerate() {
            let begun = Instant::now();
            let reads = reads(&system, &member.token, &path, || begun.elapsed() > window);
            let (times, let_in) = tokio::join!(reads, strike(&system, storm, round));
            seen[index].push(times);
            if matches!(storm, Storm::Logins) {
                accepted.push(let_in as f64);
            }
        }
    }
    let column = |rows: &[(f64, f64, usize)], p99: bool| {
        median(rows.iter().map(|row| if p99 { row.1 } else { row.0 }).collect())
    };
    let alone = (column(&seen[0], false), column(&seen[0], true));
    for (storm, rows) in storms.iter().zip(&seen) {
        let (median, p99) = (column(rows, false), column(rows, true));
        println!(
            "events.get within a second of {storm:?}: median {median:.2} ms ({:.2}), p99 {p99:.2} ms ({:.2})",
            median / alone.0,
            p99 / alone.1
        );
    }
    println!("of {STORM} logins at once {:.0} were let in, the rest told to come back", median(accepted));
    println!("memory: {before} KiB after two storms, {} KiB after {} more", resident(), STORM_ROUNDS);
}

#[tokio::main]
async fn main() {
    throughput().await;
    storms().await;
}
