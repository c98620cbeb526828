//! `cargo run --release`: the whole system from one command.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use eventboard::{healthcheck, runner};
use shared::settings::{Environment, NatsSettings, ProductionCheck};
use shared::{ops, telemetry};

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
    /// Succeed when a URL answers 2xx
    Healthcheck {
        /// For example http://127.0.0.1:9100/readyz [default: /readyz on the admin port]
        url: Option<String>,
        /// The admin port that is asked when no URL is given
        #[arg(long, env = "EVENTBOARD_ADMIN", default_value = "127.0.0.1:9100")]
        admin: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Healthcheck { url, admin }) => {
            let url = url.unwrap_or_else(|| format!("{}/readyz", runner::base_url(admin)));
            healthcheck::healthcheck(&url).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Provision { nats, replicas, env }) => {
            telemetry::init();
            let mut check = ProductionCheck::default();
            nats.check(&mut check);
            if env == Environment::Production
                && let Err(refused) = check.finish()
            {
                return Ok(ops::refuse_to_start(&refused));
            }
            runner::provision(&nats, replicas).await?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    telemetry::init();
    let shutdown = ops::shutdown_on_signal()?;
    let demo = arguments.config.demo;
    let announce = |ready: &runner::Ready| {
        // Beside the log lines, which are for machines; nobody may be listening any more.
        let _ = std::io::stderr().write_all(runner::welcome(ready, demo).as_bytes());
    };
    runner::run(arguments.config, announce, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
