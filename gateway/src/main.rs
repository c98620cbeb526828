//! The gateway as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use gateway::Gateway;
use service::Process;

/// EventBoard's HTTP gateway
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: gateway::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { config } = settings::parse();
    service::run_process(&[Gateway::NAME], service::serve::<Gateway>(config)).await
}
