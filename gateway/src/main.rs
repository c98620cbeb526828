//! The gateway as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use telemetry::span;

/// EventBoard's HTTP gateway
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: gateway::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = settings::parse::<Arguments>();
    let telemetry = service::prepare_process(&[gateway::NAME]);
    let served = serve(arguments.config).await;
    telemetry.finish().await;
    served
}

async fn serve(config: gateway::Config) -> anyhow::Result<ExitCode> {
    if let Err(refused) = config.check() {
        return Ok(service::refuse_to_start(&refused));
    }
    let shutdown = service::shutdown_on_signal()?;
    span::as_service(gateway::NAME, gateway::run(config, |_| {}, shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}
