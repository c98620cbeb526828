//! The gateway as a process of its own.

use clap::Parser;
use shared::{ops, telemetry};
use tracing::Instrument;

/// EventBoard's HTTP gateway
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: gateway::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::init();
    let shutdown = ops::shutdown_on_signal()?;
    let span = tracing::info_span!("service", service = "gateway");
    gateway::run(arguments.config, |_| {}, shutdown).instrument(span).await
}
