//! `cargo run --release`: the whole system from one command.

use std::io::Write;

use clap::Parser;
use eventboard::runner;
use shared::{ops, telemetry};

/// EventBoard on one machine: a private NATS server, SQLite, the gateway and both workers
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    config: runner::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::init();
    let shutdown = ops::shutdown_on_signal()?;
    let demo = arguments.config.demo;
    let announce = |ready: &runner::Ready| {
        // Beside the log lines, which are for machines; nobody may be listening any more.
        let _ = std::io::stderr().write_all(runner::welcome(ready, demo).as_bytes());
    };
    runner::run(arguments.config, announce, shutdown).await
}
