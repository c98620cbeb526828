//! `cargo run --release`: the whole system from one command.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use contract::{SERVICES, auth, events};
use eventboard::{chaos, healthcheck, runner, trace};
use messaging::NatsSettings;
use settings::{Environment, SettingsCheck};
use telemetry::span;

/// EventBoard on one machine: a private NATS server, SQLite, the gateway and both workers
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: runner::Config,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create what is missing of the streams and buckets on a NATS server
    Provision {
        #[command(flatten)]
        nats: NatsSettings,
        /// Replicas of streams and buckets
        #[arg(long, env = "EVENTBOARD_REPLICAS", default_value_t = 1)]
        replicas: usize,
        /// Where the system runs
        #[arg(long, env = "EVENTBOARD_ENV", value_enum, default_value_t)]
        env: Environment,
    },
    /// Run one service as a process of its own, like the program of its name
    #[command(subcommand)]
    Service(Box<Service>),
    /// Kill parts of a system all the time, and check that every write took effect exactly once
    Chaos {
        #[command(flatten)]
        config: chaos::Config,
    },
    /// Tell the story of one request: its spans from Jaeger, and what it changed
    Trace {
        #[command(flatten)]
        config: Box<trace::Config>,
    },
    /// Succeed when a URL answers 2xx
    Healthcheck {
        /// For example http://127.0.0.1:9100/readyz [default: /readyz on the admin port]
        url: Option<String>,
        /// The admin port that is asked when no URL is given
        #[arg(long, env = "EVENTBOARD_ADMIN", default_value = "127.0.0.1:9100")]
        admin: SocketAddr,
    },
}

#[derive(Debug, Subcommand)]
enum Service {
    /// HTTP in, one NATS message out
    Gateway {
        #[command(flatten)]
        config: gateway::Config,
    },
    /// Answers auth.* on NATS
    AuthWorker {
        #[command(subcommand)]
        command: Option<auth_worker::Command>,
        #[command(flatten)]
        config: auth_worker::Config,
    },
    /// Answers events.* on NATS
    EventsWorker {
        #[command(flatten)]
        config: events_worker::Config,
    },
}

impl Service {
    fn name(&self) -> &'static str {
        match self {
            Self::Gateway { .. } => gateway::NAME,
            Self::AuthWorker { .. } => auth::SERVICE.worker,
            Self::EventsWorker { .. } => events::SERVICE.worker,
        }
    }
}

/// Runs one service until it is asked to stop.
async fn serve(service: Service) -> anyhow::Result<ExitCode> {
    let name = service.name();
    let checked = match &service {
        Service::Gateway { config } => config.check(),
        Service::AuthWorker { config, .. } => config.check(),
        Service::EventsWorker { config } => config.check(),
    };
    if let Err(refused) = checked {
        return Ok(service::refuse_to_start(&refused));
    }
    if let Service::AuthWorker { command: Some(command), config } = service {
        let said = auth_worker::run_command(&config, command).await?;
        std::io::stdout().write_all(said.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let shutdown = service::shutdown_on_signal()?;
    let run = async {
        match service {
            Service::Gateway { config } => gateway::run(config, |_| {}, shutdown).await,
            Service::AuthWorker { config, .. } => auth_worker::run(config, |_| {}, shutdown).await,
            Service::EventsWorker { config } => events_worker::run(config, |_| {}, shutdown).await,
        }
    };
    span::as_service(name, run).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a storm and says what was seen; fails when a promise was broken.
async fn storm(config: &chaos::Config) -> anyhow::Result<ExitCode> {
    let shutdown = service::shutdown_on_signal()?;
    let report = chaos::run(config, &std::env::current_exe()?, shutdown).await?;
    let chaos::Report { kills, crashes, attempts, acknowledged, writes, violations } = report;
    tracing::info!(
        kills,
        crashes,
        attempts,
        writes,
        acknowledged,
        violations = violations.len(),
        "the storm is over"
    );
    for violation in &violations {
        tracing::error!("{violation}");
    }
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The whole system, until it is asked to stop.
async fn run(config: runner::Config) -> anyhow::Result<ExitCode> {
    if let Err(refused) = config.check() {
        return Ok(service::refuse_to_start(&refused));
    }
    let shutdown = service::shutdown_on_signal()?;
    let demo = config.demo;
    let announce = |ready: &runner::Ready| {
        // Beside the log lines, which are for machines. From a thread of its own: the reader may be gone or stalled.
        let welcome = runner::welcome(ready, demo);
        std::thread::spawn(move || std::io::stderr().write_all(welcome.as_bytes()));
    };
    runner::run(config, announce, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

async fn provision(nats: &NatsSettings, replicas: usize, env: Environment) -> anyhow::Result<ExitCode> {
    let mut check = SettingsCheck::new(env);
    nats.check(&mut check);
    if let Err(refused) = check.finish() {
        return Ok(service::refuse_to_start(&refused));
    }
    runner::provision(nats, replicas).await?;
    Ok(ExitCode::SUCCESS)
}

/// The services whose process this is; `None` for what only asks others, and says what it finds.
fn services(command: Option<&Command>) -> Option<Vec<&'static str>> {
    match command {
        None => Some(std::iter::once(gateway::NAME).chain(SERVICES.map(|service| service.worker)).collect()),
        Some(Command::Service(service)) => Some(vec![service.name()]),
        Some(Command::Chaos { .. } | Command::Provision { .. }) => Some(Vec::new()),
        Some(Command::Trace { .. } | Command::Healthcheck { .. }) => None,
    }
}

/// Prints what is known of a request; fails unless somebody knows it and everybody answers.
async fn tell(config: &trace::Config) -> anyhow::Result<ExitCode> {
    let story = trace::trace(config).await;
    std::io::stdout().write_all(story.text.as_bytes())?;
    Ok(if story.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn healthcheck(url: Option<String>, admin: SocketAddr) -> anyhow::Result<ExitCode> {
    let url = url.unwrap_or_else(|| format!("{}/readyz", runner::base_url(admin)));
    healthcheck::healthcheck(&url).await?;
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { command, config } = settings::parse();
    let telemetry = services(command.as_ref()).map(|services| service::prepare_process(&services));
    let ended = match command {
        None => run(config).await,
        Some(Command::Service(service)) => serve(*service).await,
        Some(Command::Chaos { config }) => storm(&config).await,
        Some(Command::Provision { nats, replicas, env }) => provision(&nats, replicas, env).await,
        Some(Command::Trace { config }) => tell(&config).await,
        Some(Command::Healthcheck { url, admin }) => healthcheck(url, admin).await,
    };
    if let Some(telemetry) = telemetry {
        telemetry.finish().await;
    }
    ended
}
