//! The events worker as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use shared::ops;
use tracing::Instrument;

/// EventBoard's moderation service: answers events.* on NATS
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: events_worker::Config,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    ops::prepare_process();
    if let Err(refused) = arguments.config.check() {
        return Ok(ops::refuse_to_start(&refused));
    }
    let shutdown = ops::shutdown_on_signal()?;
    let span = tracing::info_span!("service", service = "events-worker");
    events_worker::run(arguments.config, |_| {}, shutdown).instrument(span).await?;
    Ok(ExitCode::SUCCESS)
}
