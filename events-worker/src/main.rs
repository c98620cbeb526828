//! The events worker as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use events_worker::EventsWorker;
use service::Process;

/// EventBoard's moderation service: answers events.* on NATS
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: events_worker::Config,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { config } = settings::parse();
    service::run_process(&[EventsWorker::NAME], service::serve::<EventsWorker>(config)).await
}
