//! The auth worker as a process of its own.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use contract::auth::SERVICE;
use telemetry::span;

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
    let arguments = settings::parse::<Arguments>();
    let telemetry = service::prepare_process(&[SERVICE.worker]);
    let served = serve(arguments).await;
    telemetry.finish().await;
    served
}

async fn serve(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Err(refused) = arguments.config.check() {
        return Ok(service::refuse_to_start(&refused));
    }
    if let Some(command) = arguments.command {
        let said = auth_worker::run_command(&arguments.config, command).await?;
        std::io::stdout().write_all(said.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let shutdown = service::shutdown_on_signal()?;
    span::as_service(SERVICE.worker, auth_worker::run(arguments.config, |_| {}, shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}
