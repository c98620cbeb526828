//! Logins: what is left of bare Argon2 once everything around it is there, and what a storm of logins costs others.
//!
//! `cargo bench --bench logins`. Read the ratios; the absolute numbers are the machine's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
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
use futures_util::StreamExt;
use futures_util::future::join_all;
use harness::compose::Compose;
use harness::process::program;
use harness::stack::{Stack, timed};
use harness::system::PASSWORD;
use harness::{Database, System};
use serde_json::json;
use shared::contract::auth::Secret;

const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// Logins under way at once: enough to keep every thread busy.
const CONCURRENCY: usize = 16;
/// Logins of a storm.
const STORM: usize = 200;

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

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
    let bare = middle(bares);
    println!("bare argon2: {bare:.1}/s on {} threads", threads());
    for (name, rates) in [("the worker's hasher", hashers), ("logins over HTTP", logins)] {
        let rate = middle(rates);
        println!("{name}: {rate:.1}/s, {:.3} of bare", rate / bare);
    }
}

/// How long reads take meanwhile: the middle, and all but one in a hundred.
async fn reads(stack: &Stack, id: &str, until: impl Fn() -> bool) -> (f64, f64, usize) {
    let mut times = Vec::new();
    while !until() {
        let answer = timed(stack.get(&format!("/events/{id}"))).await;
        assert_eq!(answer.status, 200);
        times.push(answer.took.as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100], times.len())
}

/// The memory that is resident, in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn storm() {
    let stack = Stack::start(&[("EVENTBOARD_TRUSTED_HOPS", "1".to_owned())]).await;
    let _events = stack.events_worker(&[]).await;
    let event = timed(stack.create("Read in a storm")).await;
    let id = event.body["id"].as_str().unwrap().to_owned();
    let pid = stack.auth.process.pid();
    reads(&stack, &id, {
        let begun = Instant::now();
        move || begun.elapsed() > ROUND
    })
    .await;
    let before = resident(pid);
    let (mut idle, mut stormy, mut most, mut accepted) = (Vec::new(), Vec::new(), 0, Vec::new());
    for round in 0..ROUNDS {
        let begun = Instant::now();
        idle.push(reads(&stack, &id, || begun.elapsed() > ROUND).await);
        let over = AtomicBool::new(false);
        let logins = async {
            let all = join_all((0..STORM).map(async |login| {
                let request = stack.client.post(format!("{}/auth/login", stack.http));
                let from = format!("10.{round}.{}.{}", login / 250, login % 250 + 1);
                let body = json!({ "email": "user@acme.com", "password": "Password123!" });
                timed(request.header("X-Forwarded-For", from).json(&body)).await.status
            }))
            .await;
            most = most.max(resident(pid));
            over.store(true, Ordering::Relaxed);
            accepted.push(all.iter().filter(|status| **status == 200).count() as f64);
        };
        let (seen, ()) = tokio::join!(reads(&stack, &id, || over.load(Ordering::Relaxed)), logins);
        stormy.push(seen);
    }
    let column = |rows: &[(f64, f64, usize)], p99: bool| {
        middle(rows.iter().map(|row| if p99 { row.1 } else { row.0 }).collect())
    };
    let reads: usize = stormy.iter().map(|row| row.2).sum();
    println!("events.get alone: median {:.2} ms, p99 {:.2} ms", column(&idle, false), column(&idle, true));
    println!(
        "events.get during {STORM} logins: median {:.2} ms, p99 {:.2} ms, {:.2} of alone ({reads} reads, {:.0} \
         logins accepted)",
        column(&stormy, false),
        column(&stormy, true),
        column(&stormy, true) / column(&idle, true),
        middle(accepted)
    );
    println!("the auth worker's memory: {before} KiB before, {most} KiB at most");
}

#[tokio::main]
async fn main() {
    throughput().await;
    storm().await;
}
