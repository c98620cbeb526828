//! What being watched costs: requests per second with every span sent, every line written and every figure
//! counted, against none of it; and with collectors that refuse, say nothing, or reject. Clients, collector,
//! services and broker share the cores. Asked for is one event, which is the cheapest request there is and shows the
//! cost at its highest; and a keyed creation, which shows what it is among writes.
//!
//! `cargo bench --bench observed`. Read the ratios; the absolute numbers are the machine's. With the paths of two
//! builds of `eventboard` in `BUILDS`, parted by a colon, the second works in turn with the first, its baseline; what is
//! built for benchmarks has tokio's clock for tests, and is slower than either.
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

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use eventboard::runner::Ready;
use futures_util::future::join_all;
use harness::stack::{median, timed};
use harness::system::event;
use harness::walkthrough::Visitor;
use harness::{broker, eventually};
use reqwest::{Client, RequestBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// Short, and many: whatever else the machine does meets everybody alike.
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 40;
/// Requests under way at once: enough to keep every core busy.
const CONCURRENCY: usize = 16;

/// A system in a process of its own, and what is asked of it.
struct Watched {
    name: &'static str,
    _process: Child,
    _directory: TempDir,
    client: Client,
    http: String,
    event: String,
    token: String,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Load {
    Reads,
    KeyedCreations,
}

impl Watched {
    async fn start(name: &'static str, binary: &str, watched_by: Option<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("EVENTBOARD_DATA_DIR", directory.path()).env("NATS_SERVER_BIN", broker::binary().await);
        command.env("EVENTBOARD_RATE_LIMIT_USER", "off").env("EVENTBOARD_RATE_LIMIT_IP", "off");
        match watched_by {
            Some(collector) => command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector),
            None => command
                .env("OTEL_SDK_DISABLED", "true")
                .env("OTEL_METRICS_EXPORTER", "none")
                .env("OTEL_LOGS_EXPORTER", "none"),
        };
        let process = command.spawn().unwrap();
        let ready = directory.path().join("ready.json");
        eventually("the system is ready", || async { ready.exists() }).await;
        let Ready { http, .. } = serde_json::from_slice(&std::fs::read(ready).unwrap()).unwrap();
        let (client, token) = (Client::new(), Visitor::new(&http).login("user@acme.com").await);
        let create = client.post(format!("{http}/events")).bearer_auth(&token).json(&event("Watched"));
        let created = timed(create).await;
        let event = format!("{http}/events/{}", created.body["id"].as_str().unwrap());
        Self { name, _process: process, _directory: directory, client, http, event, token }
    }

    fn request(&self, load: Load) -> RequestBuilder {
        let request = match load {
            Load::Reads => self.client.get(&self.event),
            Load::KeyedCreations => {
                let key = uuid::Uuid::new_v4().to_string();
                let create = self.client.post(format!("{}/events", self.http)).json(&event("Watched"));
                create.header("Idempotency-Key", key)
            }
        };
        request.bearer_auth(&self.token)
    }

    /// Requests answered per second.
    async fn rate(&self, load: Load) -> f64 {
        let (begun, done) = (Instant::now(), AtomicUsize::new(0));
        join_all((0..CONCURRENCY).map(|_| async {
            while begun.elapsed() < ROUND {
                let answer = self.request(load).send().await.unwrap();
                assert!(answer.status().is_success(), "{answer:?}");
                answer.bytes().await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        }))
        .await;
        done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    (listener, address)
}

#[tokio::main]
async fn main() {
    let (listener, takes) = listen().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let take = move |body: bytes::Bytes| {
        count.fetch_add(body.len(), Ordering::Relaxed);
        std::future::ready(())
    };
    let routes = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let (listener, silent) = listen().await;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    });
    let (listener, rejects) = listen().await;
    tokio::spawn(async move { axum::serve(listener, Router::new()).await.unwrap() });
    let (_, refuses) = listen().await;

    let builds = std::env::var("BUILDS").ok();
    let builds = builds.as_deref().and_then(|builds| builds.split_once(':'));
    let this = builds.map_or(env!("CARGO_BIN_EXE_eventboard"), |(_, this)| this);
    let others = match builds {
        Some((baseline, _)) => vec![
            ("baseline, nothing on", baseline, None),
            ("baseline, everything on", baseline, Some(takes.clone())),
        ],
        None => vec![
            ("collector refuses", this, Some(refuses)),
            ("collector says nothing", this, Some(silent)),
            ("collector rejects", this, Some(rejects)),
        ],
    };
    let mut systems = Vec::new();
    for (name, binary, collector) in
        [("nothing on", this, None), ("everything on", this, Some(takes))].into_iter().chain(others)
    {
        systems.push(Watched::start(name, binary, collector).await);
    }
    let has_baseline = builds.is_some();
    println!("one event:");
    compare(&systems, has_baseline, Load::Reads).await;
    println!("keyed creations:");
    let written_to = if has_baseline { &systems } else { &systems[..2] };
    compare(written_to, has_baseline, Load::KeyedCreations).await;
    println!("the collector was sent {} MB", taken.load(Ordering::Relaxed) / 1_000_000);
}

/// Has the systems work in turn, and prints the rate of each and the medians of its ratios to the first two. With a
/// baseline, the third and the fourth are its two, and the first two are compared with those.
async fn compare(systems: &[Watched], has_baseline: bool, load: Load) {
    let mut rates = vec![Vec::new(); systems.len()];
    for round in 0..=ROUNDS {
        let mut turns: Vec<usize> = (0..systems.len()).collect();
        // What one leaves behind for the disk meets another one each time.
        if round % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let rate = systems[turn].rate(load).await;
            // The first is for warming up.
            if round > 0 {
                rates[turn].push(rate);
            }
        }
    }
    let ratio = |of: usize, to: usize| {
        median(rates[of].iter().zip(&rates[to]).map(|(of, to)| of / to).collect::<Vec<f64>>())
    };
    for (index, system) in systems.iter().enumerate() {
        let rate = median(rates[index].clone());
        println!(
            "{}: {rate:.0}/s, {:.3} of nothing on, {:.3} of everything on",
            system.name,
            ratio(index, 0),
            ratio(index, 1)
        );
    }
    if has_baseline {
        println!("nothing on: {:.3} of the baseline", ratio(0, 2));
        println!("everything on: {:.3} of the baseline", ratio(1, 3));
        println!("baseline, everything on: {:.3} of its nothing on", ratio(3, 2));
    }
}
