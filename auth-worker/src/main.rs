//! The auth worker as a process of its own.

use clap::Parser;
use shared::{ops, telemetry};
use tracing::Instrument;

/// EventBoard's identity service: answers auth.* on NATS
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: auth_worker::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::init();
    let shutdown = ops::shutdown_on_signal()?;
    let span = tracing::info_span!("service", service = "auth-worker");
    auth_worker::run(arguments.config, |_| {}, shutdown).instrument(span).await
}
