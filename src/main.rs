//! `cargo run --release`: the whole system from one command.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use eventboard::services::{self, Service};
use eventboard::{healthcheck, runner, trace};
use messaging::NatsSettings;
use settings::{Environment, SettingsCheck};

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
    /// Show one request: its spans from Jaeger, and what it changed
    Trace {
        #[command(flatten)]
        config: Box<trace::Config>,
    },
    /// Succeed when a URL answers 2xx
    Healthcheck {
        /// For example http://127.0.0.1:9100/readyz [default: /readyz on the admin port]
        url: Option<String>,
        /// The admin port that is asked when no URL is given
        #[arg(long, env = "EVENTBOARD_ADMIN", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, gateway::ADMIN_PORT)))]
        admin: SocketAddr,
    },
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
    let on_ready = |ready: &runner::Ready| {
        // Beside the log lines, which are for machines. From a thread of its own: the reader may be gone or stalled.
        let welcome = runner::welcome(ready, demo);
        std::thread::spawn(move || std::io::stderr().write_all(welcome.as_bytes()));
    };
    runner::run(config, on_ready, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

async fn provision(nats: &NatsSettings, replicas: usize, env: Environment) -> anyhow::Result<ExitCode> {
    let mut check = SettingsCheck::new(env);
    nats.check(&mut check);
    if let Err(refused) = check.finish() {
        return Ok(service::refuse_to_start(&refused));
    }
    messaging::provision(nats, replicas).await?;
    Ok(ExitCode::SUCCESS)
}

/// The services whose process this is; `None` for what only asks others, and says what it finds.
fn process_of(command: Option<&Command>) -> Option<Vec<&'static str>> {
    match command {
        None => Some(services::all().map(|(name, _)| name).collect()),
        Some(Command::Service(service)) => Some(vec![service.name()]),
        Some(Command::Chaos { .. } | Command::Provision { .. }) => Some(Vec::new()),
        Some(Command::Trace { .. } | Command::Healthcheck { .. }) => None,
    }
}

/// Prints what is known of a request; fails unless it is found and every source answers.
async fn show_trace(config: &trace::Config) -> anyhow::Result<ExitCode> {
    let report = trace::trace(config).await;
    std::io::stdout().write_all(report.text.as_bytes())?;
    Ok(if report.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn healthcheck(url: Option<String>, admin: SocketAddr) -> anyhow::Result<ExitCode> {
    let url = url.unwrap_or_else(|| format!("{}/readyz", runner::base_url(admin)));
    healthcheck::healthcheck(&url).await?;
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { command, config } = settings::parse();
    let names = process_of(command.as_ref());
    let work = async {
        match command {
            None => run(config).await,
            Some(Command::Service(service)) => service.serve().await,
            Some(Command::Chaos { config }) => storm(&config).await,
            Some(Command::Provision { nats, replicas, env }) => provision(&nats, replicas, env).await,
            Some(Command::Trace { config }) => show_trace(&config).await,
            Some(Command::Healthcheck { url, admin }) => healthcheck(url, admin).await,
        }
    };
    match names {
        Some(names) => service::run_process(&names, work).await,
        None => work.await,
    }
}
