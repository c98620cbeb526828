//! The auth worker with the points at which tests end it: `FAILPOINTS=<point>=return`.

use std::process::ExitCode;

#[path = "main.rs"]
mod worker;

fn main() -> anyhow::Result<ExitCode> {
    let _scenario = fail::FailScenario::setup();
    worker::main()
}
