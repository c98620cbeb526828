//! `eventboard chaos`: parts are killed all the time, clients remember what was acknowledged, and a checker
//! compares that with what is there in the end.

mod checker;
mod client;
mod part;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use messaging::{NatsSettings, provision};
use nats_server::{Broker, find_nats_server, tools};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use rand::RngExt;
use reqwest::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use checker::{Answered, Found, Write, check};

use checker::acknowledged;
use client::{ChaosClient, everything};
use part::{Part, revive};

/// How long one request may take before its client repeats it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// How long clients go on after the last kill, until everything they began is answered.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// After so many kills in a row without a success, the next one waits for one: a machine too slow to start its parts
/// between two kills would never have anything to lose.
const KILLS_WITHOUT_SUCCESS: usize = 8;
/// How long it waits for that.
const BREATH: Duration = Duration::from_secs(10);
/// A storm in which too little has happened goes on for so many times its length.
const LONGER: u32 = 10;

/// What to do, and for how long.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// How long parts are killed, in seconds
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Between two kills, in milliseconds
    #[arg(long, default_value_t = 300)]
    pub interval: u64,
    /// Clients at once
    #[arg(long, default_value_t = 16)]
    pub clients: usize,
    /// Database of the events workers, sqlite: or postgres: [default: a file that is removed afterwards]
    #[arg(long)]
    pub database_url: Option<String>,
    /// A program in the events workers' place, and its failpoints.
    #[arg(skip)]
    pub failing_worker: Option<(PathBuf, String)>,
    /// What must have happened before it ends, even if that takes longer on a slow machine.
    #[arg(skip)]
    pub at_least: AtLeast,
}

/// What has to happen in a storm for it to show anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct AtLeast {
    /// Processes killed.
    pub kills: usize,
    /// Processes that have ended by themselves.
    pub crashes: usize,
    /// Writes answered with success.
    pub acknowledged: usize,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Processes killed.
    pub kills: usize,
    /// Processes that have ended by themselves, as failpoints make them.
    pub crashes: usize,
    /// Requests sent.
    pub attempts: usize,
    /// Writes that were answered with success.
    pub acknowledged: usize,
    /// Writes that were begun.
    pub writes: usize,
    /// Every broken promise.
    pub violations: Vec<String>,
}

/// Runs the storm and returns what was seen. `program` is this executable; every part is a process of it.
///
/// # Errors
/// When the system cannot be started, or does not recover within a minute after the last kill.
pub async fn run(config: &Config, program: &Path, shutdown: CancellationToken) -> anyhow::Result<Report> {
    let name = format!("eventboard-chaos-{}-{:08x}", std::process::id(), rand::random::<u32>());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory)?;
    let report = match ChaosRun::start(config, program, &directory).await {
        Ok(storm) => storm.run(config, shutdown).await,
        Err(error) => Err(error),
    };
    std::fs::remove_dir_all(&directory).context("cannot remove the files of this run")?;
    report
}

struct ChaosRun {
    parts: Vec<Part>,
    broker: Broker,
    nats_server: PathBuf,
    directory: PathBuf,
    gateways: Vec<String>,
    settled: CancellationToken,
}

impl ChaosRun {
    async fn start(config: &Config, program: &Path, directory: &Path) -> anyhow::Result<Self> {
        let nats_server = find_nats_server(&tools(&directory.join("tools"))).await?;
        let broker = Broker::start(&nats_server, &directory.join("nats"), None).await?;
        provision(&NatsSettings::at(broker.url()), 1).await?;
        let common = |name: &str| {
            let mut environment = vec![
                ("EVENTBOARD_NATS_URL", broker.url()),
                ("EVENTBOARD_ADMIN", "127.0.0.1:0".to_owned()),
                ("RUST_LOG", "warn".to_owned()),
            ];
            if name != "gateway" {
                environment.push(("EVENTBOARD_DATA_DIR", directory.to_string_lossy().into_owned()));
                environment.push(("EVENTBOARD_DEMO", "true".to_owned()));
            }
            environment
        };
        let part = |service: &'static str, number: usize, more: Vec<(&'static str, String)>| Part {
            program: program.to_owned(),
            arguments: vec!["service", service],
            service,
            environment: common(service).into_iter().chain(more).collect(),
            log: directory.join(format!("{service}-{number}.log")),
            child: None,
        };
        let mut parts = vec![part("auth-worker", 1, Vec::new())];
        for number in 1..=3 {
            let url = config.database_url.clone().map(|url| ("EVENTBOARD_DATABASE_URL", url));
            let mut worker = part("events-worker", number, url.into_iter().collect());
            if let Some((program, failpoints)) = &config.failing_worker {
                (worker.program, worker.arguments) = (program.clone(), Vec::new());
                worker.environment.push(("FAILPOINTS", failpoints.clone()));
            }
            parts.push(worker);
        }
        let mut gateways = Vec::new();
        for number in 1..=2 {
            let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            gateways.push(format!("http://{address}"));
            // Its clients all come from one address, and ask as fast as they can.
            let settings = [
                ("EVENTBOARD_HTTP", address.to_string()),
                ("EVENTBOARD_RATE_LIMIT_USER", "off".to_owned()),
                ("EVENTBOARD_RATE_LIMIT_IP", "off".to_owned()),
                ("EVENTBOARD_DRAIN_DELAY", "0".to_owned()),
            ];
            parts.push(part("gateway", number, settings.into()));
        }
        for part in &mut parts {
            part.start()?;
        }
        let settled = CancellationToken::new();
        Ok(Self { parts, broker, nats_server, directory: directory.to_owned(), gateways, settled })
    }

    async fn run(mut self, config: &Config, shutdown: CancellationToken) -> anyhow::Result<Report> {
        let client = Client::builder().timeout(REQUEST_TIMEOUT).build()?;
        let clients: Vec<ChaosClient> = (0..config.clients)
            .map(|number| ChaosClient {
                client: client.clone(),
                gateways: self.gateways.clone(),
                number,
                token: String::new(),
                answers: Arc::default(),
                settled: self.settled.clone(),
            })
            .collect();
        let answers: Vec<_> = clients.iter().map(|client| Arc::clone(&client.answers)).collect();
        let stop = CancellationToken::new();
        let mut visits = tokio::task::JoinSet::new();
        for client in clients {
            visits.spawn(client.visit(stop.clone()));
        }
        let (kills, mut crashes) = self.kill_parts(config, &answers, &shutdown).await?;
        stop.cancel();
        let settled = self.settled.clone();
        let (parts, interval) = (&mut self.parts, Duration::from_millis(config.interval));
        let keep_running = async {
            loop {
                tokio::time::sleep(interval).await;
                match revive(parts) {
                    Ok(revived) => crashes += revived,
                    Err(error) => break error,
                }
            }
        };
        let settle = async {
            let mut writes = 0;
            while let Some(begun) = visits.join_next().await {
                writes += begun??;
            }
            anyhow::Ok(writes)
        };
        let writes = tokio::select! {
            settled = tokio::time::timeout(SETTLE_TIMEOUT, settle) => match settled {
                Ok(writes) => writes?,
                Err(_) => bail!("some writes are still unanswered a minute after the last kill"),
            },
            failed = keep_running => return Err(failed),
        };
        settled.cancel();
        for part in &mut self.parts {
            part.recover().await?;
        }
        let answers: Vec<Answered> = answers.iter().flat_map(|answers| answers.lock().clone()).collect();
        let found = everything(&client, &self.gateways[0]).await?;
        let report = Report {
            kills,
            crashes,
            attempts: answers.len(),
            acknowledged: acknowledged(&answers).len(),
            writes,
            violations: check(&answers, &found),
        };
        for part in &mut self.parts {
            part.kill().await;
        }
        self.broker.stop().await;
        Ok(report)
    }

    /// Kills one part after the other and starts it again; in the end everything runs. Returns how many were killed,
    /// and how many had ended by themselves.
    async fn kill_parts(
        &mut self,
        config: &Config,
        answers: &[Arc<Mutex<Vec<Answered>>>],
        shutdown: &CancellationToken,
    ) -> anyhow::Result<(usize, usize)> {
        let (begun, length) = (Instant::now(), Duration::from_secs(config.seconds));
        let acknowledged =
            || answers.iter().map(|answers| acknowledged(&answers.lock()).len()).sum::<usize>();
        let AtLeast { kills: least_kills, crashes: least_crashes, acknowledged: least } = config.at_least;
        let (mut kills, mut crashes) = (0, 0);
        let (mut last_success, mut in_vain) = (0, 0);
        while !shutdown.is_cancelled() && begun.elapsed() < length * LONGER {
            let successes = acknowledged();
            let enough = kills >= least_kills && crashes >= least_crashes && successes >= least;
            if begun.elapsed() >= length && enough {
                break;
            }
            in_vain = if successes > last_success { 0 } else { in_vain + 1 };
            last_success = successes;
            let pause = Duration::from_millis(config.interval);
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            crashes += revive(&mut self.parts)?;
            if in_vain >= KILLS_WITHOUT_SUCCESS {
                let over = || acknowledged() > last_success || shutdown.is_cancelled();
                crashes += self.breathe(pause, over).await?;
            }
            let victim = rand::rng().random_range(0..=self.parts.len());
            match self.parts.get_mut(victim) {
                Some(part) => {
                    part.kill().await;
                    part.start()?;
                }
                None => {
                    let port = self.broker.port();
                    self.broker.signal(Signal::SIGKILL);
                    self.broker.ended().await;
                    self.broker =
                        Broker::start(&self.nats_server, &self.directory.join("nats"), Some(port)).await?;
                }
            }
            kills += 1;
        }
        Ok((kills, crashes))
    }

    /// Kills nothing until it is `over`, or for [`BREATH`]. Returns how many parts have ended by themselves.
    async fn breathe(&mut self, pause: Duration, over: impl Fn() -> bool) -> anyhow::Result<usize> {
        let (until, mut crashes) = (Instant::now() + BREATH, 0);
        while !over() && Instant::now() < until {
            tokio::time::sleep(pause).await;
            crashes += revive(&mut self.parts)?;
        }
        Ok(crashes)
    }
}
