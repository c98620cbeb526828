//! The events worker as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use contract::events::SERVICE;
use telemetry::span;

/// EventBoard's moderation service: answers events.* on NATS
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: events_worker::Config,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<ExitCode> {
    let arguments = settings::parse::<Arguments>();
    let telemetry = service::prepare_process(&[SERVICE.worker]);
    let served = serve(arguments.config).await;
    telemetry.finish().await;
    served
}

async fn serve(config: events_worker::Config) -> anyhow::Result<ExitCode> {
    if let Err(refused) = config.check() {
        return Ok(service::refuse_to_start(&refused));
    }
    let shutdown = service::shutdown_on_signal()?;
    span::as_service(SERVICE.worker, events_worker::run(config, |_| {}, shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}
