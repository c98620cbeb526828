//! The gateway as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use shared::ops;
use tracing::Instrument;

/// EventBoard's HTTP gateway
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: gateway::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let telemetry = ops::prepare_process(&[gateway::NAME]);
    let served = serve(arguments.config).await;
    telemetry.finish().await;
    served
}

async fn serve(config: gateway::Config) -> anyhow::Result<ExitCode> {
    if let Err(refused) = config.check() {
        return Ok(ops::refuse_to_start(&refused));
    }
    let shutdown = ops::shutdown_on_signal()?;
    let span = tracing::info_span!("service", service = gateway::NAME);
    gateway::run(config, |_| {}, shutdown).instrument(span).await?;
    Ok(ExitCode::SUCCESS)
}
