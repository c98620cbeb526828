//! The auth worker as a process of its own.

use std::process::ExitCode;

use auth_worker::AuthWorker;
use clap::Parser;
use service::Process;

/// EventBoard's identity service: answers auth.* on NATS
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<auth_worker::Command>,
    #[command(flatten)]
    config: auth_worker::Config,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { command, config } = settings::parse();
    service::run_process(&[AuthWorker::NAME], async {
        match command {
            Some(command) => auth_worker::run_command(&config, command).await,
            None => service::serve::<AuthWorker>(config).await,
        }
    })
    .await
}
