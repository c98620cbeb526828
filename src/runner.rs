//! Runs everything on one machine, and keeps it running until asked to stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use database::DatabaseUrl;
use futures_util::future::join_all;
use gateway::Gateway;
use messaging::{NatsSettings, provision};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use service::{ListenError, Process, demo};
use settings::{Environment, Refused, SettingsCheck, secret};
use telemetry::span;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::private_broker::PrivateBroker;
use crate::services::{self, Part};

/// How often ports are chosen before a taken one is an error.
const MAX_PORT_ATTEMPTS: u32 = 5;
/// Before a service that failed is started again.
pub(crate) const RESTART_DELAY: Duration = Duration::from_secs(1);

/// The runner's settings.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address the API is served on [default: 127.0.0.1:3000, or a free port when it is taken]
    #[arg(long, env = "EVENTBOARD_HTTP")]
    pub http: Option<SocketAddr>,
    /// A NATS server to use instead of a private one.
    #[command(flatten)]
    pub nats: NatsSettings,
    /// Replicas of streams and buckets
    #[arg(long, env = "EVENTBOARD_REPLICAS", default_value_t = 1)]
    pub replicas: usize,
    /// Where the system runs
    #[arg(long, env = "EVENTBOARD_ENV", value_enum, default_value_t)]
    pub env: Environment,
    /// Database of the auth worker [default: auth.db in the data directory]
    #[arg(long, env = "EVENTBOARD_AUTH_DATABASE_URL", hide_env_values = true, value_parser = secret)]
    pub auth_database_url: Option<SecretString>,
    /// Database of the events worker [default: events.db in the data directory]
    #[arg(long, env = "EVENTBOARD_EVENTS_DATABASE_URL", hide_env_values = true, value_parser = secret)]
    pub events_database_url: Option<SecretString>,
    /// Directory for databases, keys and the private broker
    #[arg(long, env = "EVENTBOARD_DATA_DIR", default_value = "./.eventboard")]
    pub data_dir: PathBuf,
    /// Create the demo organisations, users and events
    #[arg(long, env = "EVENTBOARD_DEMO", default_value_t = true, action = clap::ArgAction::Set)]
    pub demo: bool,
    /// Origins that browsers may call from, separated by commas; * allows all
    #[arg(long, env = "EVENTBOARD_CORS_ORIGINS", default_value = "*")]
    pub cors_origins: gateway::CorsOrigins,
    /// Requests of one user per second, and at once: <per second>:<burst>, or off
    #[arg(long, env = "EVENTBOARD_RATE_LIMIT_USER", default_value = "200:400")]
    pub rate_limit_user: gateway::RateLimit,
    /// Requests from one address per second, and at once: <per second>:<burst>, or off
    #[arg(long, env = "EVENTBOARD_RATE_LIMIT_IP", default_value = "400:800")]
    pub rate_limit_ip: gateway::RateLimit,
}

impl Config {
    /// Refuses settings that cannot be used.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self) -> Result<(), Refused> {
        let mut check = SettingsCheck::new(Environment::Development);
        self.nats.check(&mut check);
        for (variable, url) in [
            ("EVENTBOARD_AUTH_DATABASE_URL", &self.auth_database_url),
            ("EVENTBOARD_EVENTS_DATABASE_URL", &self.events_database_url),
        ] {
            if let Err(error) = url.as_ref().map_or(Ok(()), DatabaseUrl::check) {
                check.refuse(variable, error);
            }
        }
        check.finish()
    }
}

/// What `ready.json` says about a running system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// Base URL of the API.
    pub http: String,
    /// URL of the broker.
    pub nats: String,
    /// Base URL of each service's admin port, by the service's name.
    pub admin: BTreeMap<String, String>,
    /// Process ids of the children.
    pub pids: Pids,
}

/// Process ids of the children.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pids {
    /// The private broker; absent when another one is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_server: Option<i32>,
}

/// The addresses of the services, chosen once so that a restarted one is found where it was.
struct Ports {
    http: SocketAddr,
    admin: BTreeMap<&'static str, SocketAddr>,
}

impl Ports {
    fn choose(http: Option<SocketAddr>) -> anyhow::Result<Self> {
        let http = choose(http, 3000, "the API")?;
        let admin = services::all()
            .map(|(name, usual)| Ok((name, choose(None, usual, &format!("the admin port of the {name}"))?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { http, admin })
    }
}

/// Runs the whole system until `shutdown`; calls `on_ready` once everything is ready.
///
/// # Errors
/// What keeps a part from starting. A part that fails later is started again instead.
pub async fn run(
    config: Config,
    on_ready: impl Fn(&Ready),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot create the data directory {}", config.data_dir.display()))?;
    let _lock = lock(&config.data_dir)?;
    // Left by a system that was killed.
    let _ = std::fs::remove_file(config.data_dir.join("ready.json"));
    if config.env == Environment::Production {
        bail!(
            "EVENTBOARD_ENV=production: this runs everything in one process for development; run the services apart"
        );
    }
    let (nats, broker) = match &config.nats.url {
        Some(_) => (config.nats.clone(), None),
        None => {
            let broker = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                broker = PrivateBroker::start(&config.data_dir) => broker?,
            };
            (NatsSettings::at(broker.broker.url()), Some(broker))
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        provisioned = provision(&nats, config.replicas) => provisioned?,
    }
    let pids = Pids { nats_server: broker.as_ref().map(|broker| broker.broker.pid()) };
    let stop_broker = CancellationToken::new();
    let keep_broker = async {
        match broker {
            Some(broker) => broker.keep(stop_broker.clone()).await,
            None => Ok(()),
        }
    };
    let services = async {
        let mut attempts = 1..MAX_PORT_ATTEMPTS;
        let result = loop {
            // In a box: with everything that the services wait for in it, the type is too deep for the compiler.
            let result = Box::pin(run_services(&config, &nats, &pids, &on_ready, &shutdown)).await;
            // Between choosing a free port and listening on it, another system may have been faster.
            let lost_a_port = result.as_ref().is_err_and(|error| error.is::<ListenError>());
            if !lost_a_port || attempts.next().is_none() {
                break result;
            }
        };
        stop_broker.cancel();
        result
    };
    let (services, broker) = tokio::join!(services, keep_broker);
    services.and(broker)
}

async fn run_services(
    config: &Config,
    settings: &NatsSettings,
    pids: &Pids,
    on_ready: impl Fn(&Ready),
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let ports = Ports::choose(config.http)?;
    let gateway = services::gateway(config, settings, ports.http, ports.admin[Gateway::NAME]);
    let workers = services::workers(config, settings, |name| ports.admin[name]);
    // The gateway ends first, so that everything it accepted still finds its worker.
    let stop_workers = CancellationToken::new();
    let failed = CancellationToken::new();
    let stop_gateway = shutdown.child_token();
    let (is_ready, mut all_ready) = mpsc::channel::<()>(1);
    let keep_workers: Vec<_> =
        workers.iter().map(|worker| keep(worker, is_ready.clone(), &stop_workers, &failed)).collect();
    let keep_gateway = async {
        let ended = keep(&gateway, is_ready, &stop_gateway, &failed).await;
        stop_workers.cancel();
        ended
    };
    let written = async {
        // Nothing is sent: each service drops its end once it is ready for the first time, has failed, or was
        // asked to stop before.
        all_ready.recv().await;
        if !failed.is_cancelled() && !shutdown.is_cancelled() {
            let ready = Ready::new(&ports, settings.shown_url(), pids.clone());
            write_ready(&config.data_dir, &ready)?;
            on_ready(&ready);
        }
        anyhow::Ok(())
    };
    let stop_on_failure = async {
        tokio::select! {
            () = failed.cancelled() => stop_gateway.cancel(),
            () = stop_workers.cancelled() => {}
        }
    };
    let (workers, gateway, written, ()) =
        tokio::join!(join_all(keep_workers), keep_gateway, written, stop_on_failure);
    // Stale from here on; a system that is not running must not look as if it were.
    let _ = std::fs::remove_file(config.data_dir.join("ready.json"));
    workers.into_iter().chain([gateway, written]).collect()
}

/// Runs a service, and runs it again when it fails after it was once ready, at which it drops `first_ready`.
async fn keep(
    part: &Part,
    first_ready: mpsc::Sender<()>,
    stop: &CancellationToken,
    failed: &CancellationToken,
) -> anyhow::Result<()> {
    let name = part.name;
    let mut first_ready = Some(first_ready);
    loop {
        let (ready, mut is_ready) = oneshot::channel();
        let signal = Box::new(move |_| {
            let _ = ready.send(());
        });
        let mut running = span::as_service(name, part.run(signal, stop.clone()));
        let result = tokio::select! {
            result = &mut running => result,
            Ok(()) = &mut is_ready => {
                first_ready = None;
                running.await
            }
        };
        match result {
            Ok(()) => return Ok(()),
            Err(error) if first_ready.is_some() => {
                failed.cancel();
                return Err(error.context(format!("the {name} could not start")));
            }
            Err(error) => {
                tracing::error!(
                    service = name,
                    error = format!("{error:#}"),
                    "a service failed; starting it again"
                );
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(RESTART_DELAY) => {}
                }
            }
        }
    }
}

/// The URL that reaches `address` on this machine.
pub fn base_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("http://{address}")
}

impl Ready {
    fn new(ports: &Ports, nats: String, pids: Pids) -> Self {
        Self {
            http: base_url(ports.http),
            nats,
            admin: ports.admin.iter().map(|(name, at)| ((*name).to_owned(), base_url(*at))).collect(),
            pids,
        }
    }
}

/// What to try first.
///
/// Without the demo data there are no users, and the first thing to do is to sign up.
pub fn welcome(ready: &Ready, demo: bool) -> String {
    let addresses = addresses(ready);
    if !demo {
        return format!("{addresses}\nPOST /auth/signup makes the first user.\n\nCtrl-C stops everything.\n");
    }
    let users: Vec<String> =
        demo::USERS.iter().map(|user| format!("{} ({})", user.email, user.role.as_str())).collect();
    let Ready { http, nats, .. } = ready;
    format!(
        "{addresses}\nDemo users, password {password}:\n  {users}\n\nTry:\n  \
         TOKEN=$(curl -s {http}/auth/login -H 'Content-Type: application/json' \\\n    \
         -d '{{\"email\":\"user@acme.com\",\"password\":\"{password}\"}}' | sed 's/.*\"accessToken\":\"\\([^\"]*\\)\".*/\\1/')\n  \
         curl -s {http}/events -H \"Authorization: Bearer $TOKEN\"\n  \
         nats --server {nats} req events.list '{{}}' -H \"Authorization:Bearer $TOKEN\"\n\nCtrl-C stops everything.\n",
        password = demo::PASSWORD,
        users = users.join("\n  "),
    )
}

fn addresses(Ready { http, nats, .. }: &Ready) -> String {
    format!(
        "\nEventBoard is ready\n\n  API     {http}\n  Docs    {http}/docs\n  Health  {http}/health\n  NATS    {nats}\n"
    )
}

/// One system per data directory.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!("another EventBoard uses {}; set EVENTBOARD_DATA_DIR to another directory", data_dir.display());
    }
    Ok(file)
}

/// The address itself when it is free.
pub(crate) fn free(address: SocketAddr) -> Option<SocketAddr> {
    std::net::TcpListener::bind(address).ok()?.local_addr().ok()
}

/// The wanted address, the usual one, or, when that is taken, a free one.
fn choose(wanted: Option<SocketAddr>, usual: u16, what: &str) -> anyhow::Result<SocketAddr> {
    if let Some(wanted) = wanted {
        return free(wanted)
            .with_context(|| format!("cannot listen on {wanted}; set EVENTBOARD_HTTP to another address"));
    }
    if let Some(address) = free(SocketAddr::from((Ipv4Addr::LOCALHOST, usual))) {
        return Ok(address);
    }
    let address = free(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("there is no free port")?;
    tracing::info!(port = address.port(), "port {usual} is taken; {what} uses another one");
    Ok(address)
}

pub(crate) fn write_ready(data_dir: &Path, ready: &Ready) -> anyhow::Result<()> {
    let (path, part) = (data_dir.join("ready.json"), data_dir.join("ready.json.part"));
    std::fs::write(&part, serde_json::to_vec_pretty(ready)?)?;
    std::fs::rename(&part, &path)?;
    Ok(())
}
