//! `eventboard chaos`: parts are killed all the time, clients remember what they were told, and a checker
//! compares that with what is there in the end.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use messaging::NatsSettings;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use rand::RngExt;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use service::demo;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::nats_server::{Broker, find_nats_server, tools};
use crate::runner::provision;

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
/// Every title of this run begins so.
const TITLE: &str = "chaos-";

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

/// One of the two writes a client makes of each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Write {
    /// Drafts it.
    Create,
    /// Hands it in.
    Submit,
}

/// One answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Names the event; also its title.
    pub title: String,
    /// What was asked.
    pub write: Write,
    /// The HTTP status.
    pub status: u16,
    /// Whether it was marked as a replay.
    pub replayed: bool,
    /// The very text.
    pub body: String,
}

/// An event that is there in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its title.
    pub title: String,
    /// Its id.
    pub id: String,
    /// Its history.
    pub actions: Vec<String>,
}

/// Compares what clients were told with what is there: no acknowledged write is missing, none took effect
/// twice, and whoever asked again was told the same.
pub fn check(answers: &[Answered], found: &[Found]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut told: BTreeMap<(&str, Write), Vec<&Answered>> = BTreeMap::new();
    for answer in answers {
        told.entry((&answer.title, answer.write)).or_default().push(answer);
    }
    let mut there: BTreeMap<&str, Vec<&Found>> = BTreeMap::new();
    for event in found {
        there.entry(&event.title).or_default().push(event);
    }
    for (title, events) in &there {
        if events.len() > 1 {
            violations.push(format!("{title} was created {} times", events.len()));
        }
        for event in events {
            for (action, most) in [("created", 1), ("submitted", 1)] {
                let times = event.actions.iter().filter(|done| *done == action).count();
                if times > most || (action == "created" && times != 1) {
                    violations.push(format!("{title} was {action} {times} times"));
                }
            }
        }
    }
    for ((title, write), answers) in &told {
        let good: Vec<&&Answered> = answers.iter().filter(|answer| answer.status < 300).collect();
        if let Some(bad) = answers.iter().find(|answer| is_final_refusal(answer)) {
            violations.push(format!("{title} {write:?} was refused: {} {}", bad.status, bad.body));
        }
        let Some(first) = good.first() else { continue };
        if good.iter().any(|answer| (answer.status, &answer.body) != (first.status, &first.body)) {
            violations.push(format!("{title} {write:?} was answered in two ways"));
        }
        if good.iter().filter(|answer| !answer.replayed).count() > 1 {
            violations.push(format!("{title} {write:?} was twice answered as if for the first time"));
        }
        let event = there.get(title).and_then(|events| events.first());
        let is_there = event.is_some_and(|event| match write {
            Write::Create => first.body.contains(&event.id),
            Write::Submit => event.actions.iter().any(|action| action == "submitted"),
        });
        if !is_there {
            violations.push(format!("{title} {write:?} was acknowledged and is not there"));
        }
    }
    violations
}

/// Whether asking again would not help, although the request was a legal one.
fn is_final_refusal(answer: &Answered) -> bool {
    (300..500).contains(&answer.status)
        && answer.status != 401
        && !answer.body.contains("idempotency-in-progress")
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

/// A part of the system, as a process that can be killed and started again where it was.
struct Part {
    program: PathBuf,
    arguments: Vec<&'static str>,
    service: &'static str,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Part {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.service))?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts it anew if it has failpoints, without them: the checker reads what is there.
    async fn recover(&mut self) -> anyhow::Result<()> {
        let before = self.environment.len();
        self.environment.retain(|(name, _)| *name != "FAILPOINTS");
        if self.environment.len() < before {
            self.kill().await;
            self.start()?;
        }
        Ok(())
    }

    /// Starts it again if it has ended by itself.
    fn revive(&mut self) -> anyhow::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        let Some(status) = child.try_wait()? else { return Ok(false) };
        tracing::debug!(service = self.service, %status, "a part has ended by itself");
        self.start()?;
        Ok(true)
    }

    async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails when it has ended by itself.
            let _ = child.kill().await;
        }
    }
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
        let answers: Vec<_> = clients.iter().map(|visitor| Arc::clone(&visitor.answers)).collect();
        let stop = CancellationToken::new();
        let mut visits = tokio::task::JoinSet::new();
        for visitor in clients {
            visits.spawn(visitor.visit(stop.clone()));
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

/// The writes that clients were told have succeeded.
fn acknowledged(answers: &[Answered]) -> HashSet<(&str, Write)> {
    let good = answers.iter().filter(|answer| answer.status < 300);
    good.map(|answer| (answer.title.as_str(), answer.write)).collect()
}

/// Starts again what has ended by itself, and returns how many parts that were.
fn revive(parts: &mut [Part]) -> anyhow::Result<usize> {
    parts.iter_mut().try_fold(0, |revived, part| Ok(revived + usize::from(part.revive()?)))
}

/// A client that repeats what it was not told about, and sometimes what it was.
struct ChaosClient {
    client: Client,
    gateways: Vec<String>,
    number: usize,
    token: String,
    answers: Arc<Mutex<Vec<Answered>>>,
    settled: CancellationToken,
}

impl ChaosClient {
    /// Writes until `stop`, finishes what it has begun, and returns how many writes that were.
    async fn visit(mut self, stop: CancellationToken) -> anyhow::Result<usize> {
        self.login().await?;
        let mut writes = 0;
        for round in 0.. {
            if stop.is_cancelled() {
                break;
            }
            let title = format!("{TITLE}{}-{round}", self.number);
            let event = json!({
                "title": title,
                "description": "Test",
                "startDate": "2026-06-01T10:00:00Z",
                "endDate": "2026-06-01T12:00:00Z",
            });
            let Some(created) = self.write(&title, Write::Create, "/events", &event).await? else { break };
            writes += 1;
            let event: Value = serde_json::from_str(&created.body).context("an event that is no JSON")?;
            let path = format!("/events/{}/submit", event["id"].as_str().unwrap_or_default());
            if self.write(&title, Write::Submit, &path, &Value::Null).await?.is_none() {
                break;
            }
            writes += 1;
        }
        Ok(writes)
    }

    /// Sends a write until it is answered for good; `None` when it never is.
    async fn write(
        &mut self,
        title: &str,
        write: Write,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Option<Answered>> {
        let key = format!("{title}-{write:?}");
        while !self.settled.is_cancelled() {
            // Two at once, through whichever gateways, as an impatient client does.
            let (one, other) =
                (self.send(title, write, &key, path, body), self.send(title, write, &key, path, body));
            let twice = rand::rng().random_bool(0.2);
            let (first, second) = tokio::join!(one, async { if twice { other.await } else { None } });
            // Both, before either decides what comes next: the checker compares them.
            let answered: Vec<Answered> = [first, second].into_iter().flatten().collect();
            self.answers.lock().extend(answered.iter().cloned());
            if answered.iter().any(is_final_refusal) {
                return Ok(None);
            }
            if let Some(done) = answered.iter().find(|answer| answer.status < 300) {
                // Now and then, who was told asks again.
                if rand::rng().random_bool(0.2)
                    && let Some(again) = self.send(title, write, &key, path, body).await
                {
                    self.answers.lock().push(again);
                }
                return Ok(Some(done.clone()));
            }
            if answered.iter().any(|answer| answer.status == 401) {
                self.login().await?;
            }
            let pause = Duration::from_millis(rand::rng().random_range(20..150));
            tokio::time::sleep(pause).await;
        }
        Ok(None)
    }

    async fn send(&self, title: &str, write: Write, key: &str, path: &str, body: &Value) -> Option<Answered> {
        let gateway = &self.gateways[rand::rng().random_range(0..self.gateways.len())];
        let request = self.client.post(format!("{gateway}{path}")).bearer_auth(&self.token);
        let request = request.header("Idempotency-Key", key);
        let request = if body.is_null() { request } else { request.json(body) };
        let answer = request.send().await.ok()?;
        let (status, replayed) =
            (answer.status().as_u16(), answer.headers().contains_key("idempotent-replayed"));
        // A body that broke off is no answer.
        let body = answer.text().await.ok()?;
        Some(Answered { title: title.to_owned(), write, status, replayed, body })
    }

    async fn login(&mut self) -> anyhow::Result<()> {
        self.token = login(&self.client, &self.gateways, &self.settled, "user@acme.com").await?;
        Ok(())
    }
}

async fn login(
    client: &Client,
    gateways: &[String],
    settled: &CancellationToken,
    email: &str,
) -> anyhow::Result<String> {
    let credentials = json!({ "email": email, "password": demo::PASSWORD });
    for attempt in 0.. {
        if settled.is_cancelled() {
            break;
        }
        let gateway = &gateways[attempt % gateways.len()];
        if let Ok(answer) = client.post(format!("{gateway}/auth/login")).json(&credentials).send().await
            && let Ok(body) = answer.json::<Value>().await
            && let Some(token) = body["accessToken"].as_str()
        {
            return Ok(token.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("nobody could sign in")
}

/// Every event of this run that is there, with its history.
async fn everything(client: &Client, gateway: &str) -> anyhow::Result<Vec<Found>> {
    let settled = CancellationToken::new();
    let token = login(client, &[gateway.to_owned()], &settled, "admin@acme.com").await?;
    let get = async |path: String| {
        let patience = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let answer = client.get(format!("{gateway}{path}")).bearer_auth(&token).send().await?;
            // A worker may only just have been started.
            if answer.status() != StatusCode::SERVICE_UNAVAILABLE || Instant::now() >= patience {
                return anyhow::Ok(answer.error_for_status()?.json::<Value>().await?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (mut found, mut path) = (Vec::new(), "/events?limit=100".to_owned());
    loop {
        let page = get(path).await?;
        for event in page["data"].as_array().into_iter().flatten() {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            if !text("title").starts_with(TITLE) {
                continue;
            }
            let history = get(format!("/events/{}/history", text("id"))).await?;
            let actions = history["data"].as_array().into_iter().flatten();
            let actions = actions.filter_map(|entry| entry["action"].as_str().map(str::to_owned)).collect();
            found.push(Found { title: text("title"), id: text("id"), actions });
        }
        match page["meta"]["nextCursor"].as_str() {
            Some(cursor) => path = format!("/events?limit=100&cursor={cursor}"),
            None => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(write: Write, status: u16, replayed: bool, body: &str) -> Answered {
        Answered { title: "chaos-1".to_owned(), write, status, replayed, body: body.to_owned() }
    }

    fn found(id: &str, actions: &[&str]) -> Found {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Found { title: "chaos-1".to_owned(), id: id.to_owned(), actions }
    }

    /// A history in which nothing is wrong.
    fn history() -> (Vec<Answered>, Vec<Found>) {
        let answers = vec![
            answered(Write::Create, 503, false, "away"),
            answered(Write::Create, 409, false, "idempotency-in-progress"),
            answered(Write::Create, 201, false, "{\"id\":\"a\"}"),
            answered(Write::Create, 201, true, "{\"id\":\"a\"}"),
            answered(Write::Submit, 504, false, "late"),
            answered(Write::Submit, 200, true, "{\"id\":\"a\",\"status\":\"SUBMITTED\"}"),
        ];
        (answers, vec![found("a", &["created", "submitted"])])
    }

    #[test]
    fn a_clean_history_passes() {
        let (answers, there) = history();
        assert_eq!(check(&answers, &there), [""; 0]);
        // What nobody was told of may be there or not.
        assert_eq!(check(&answers[..2], &there), [""; 0]);
        assert_eq!(check(&answers[..2], &[]), [""; 0]);
    }

    #[test]
    fn a_planted_duplicate_is_found() {
        let (answers, mut there) = history();
        there.push(found("b", &["created"]));
        assert_eq!(check(&answers, &there), ["chaos-1 was created 2 times"]);
        let twice = [found("a", &["created", "submitted", "submitted"])];
        assert_eq!(check(&answers, &twice), ["chaos-1 was submitted 2 times"]);
        let (mut answers, there) = history();
        answers.push(answered(Write::Create, 201, false, "{\"id\":\"a\"}"));
        assert_eq!(check(&answers, &there), ["chaos-1 Create was twice answered as if for the first time"]);
    }

    #[test]
    fn a_planted_loss_is_found() {
        let (answers, _) = history();
        let lost = [
            "chaos-1 Create was acknowledged and is not there",
            "chaos-1 Submit was acknowledged and is not there",
        ];
        assert_eq!(check(&answers, &[]), lost);
        assert_eq!(check(&answers, &[found("a", &["created"])]), lost[1..]);
        assert_eq!(check(&answers, &[found("b", &["created", "submitted"])]), lost[..1]);
    }

    #[test]
    fn a_planted_instability_is_found() {
        let (mut answers, there) = history();
        answers.push(answered(Write::Create, 201, true, "{\"id\":\"a\" }"));
        assert_eq!(check(&answers, &there), ["chaos-1 Create was answered in two ways"]);
        let (mut answers, there) = history();
        answers.push(answered(Write::Submit, 409, false, "wrong-state"));
        assert_eq!(check(&answers, &there), ["chaos-1 Submit was refused: 409 wrong-state"]);
    }
}
