//! How every process of the system runs: telemetry, settings that it refuses, signals, and its end.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use futures_util::future::BoxFuture;
use settings::{EX_CONFIG, Refused};
use telemetry::{Telemetry, span};
use tokio_util::sync::CancellationToken;

use crate::shutdown_on_signal;

/// Where a process listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The API; `None` for a worker.
    pub http: Option<SocketAddr>,
    /// The admin port.
    pub admin: SocketAddr,
}

/// Called once requests are answered.
pub type Ready = Box<dyn FnOnce(Addresses) + Send>;

/// A part of the system: a process of its own, or one of several in a process.
pub trait Process: 'static {
    /// Its name in log lines, traces and commands.
    const NAME: &'static str;
    /// Its settings.
    type Config: Clone + Send + Sync + 'static;

    /// Refuses settings that cannot be used, or are not fit for where the system runs.
    ///
    /// # Errors
    /// [`Refused`].
    fn check(config: &Self::Config) -> Result<(), Refused>;

    /// Serves until `shutdown`, and calls `ready` once requests are answered.
    ///
    /// # Errors
    /// What keeps it from starting, and a lost subscription.
    fn run(
        config: Self::Config,
        ready: Ready,
        shutdown: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Starts what every process has: log lines, traces, metrics, and as many open files as the system grants. A
/// default of 1024 is less than the connections a gateway takes. The process is these services.
fn prepare_process(services: &[&'static str]) -> Telemetry {
    let telemetry = Telemetry::start(services);
    if let Err(error) = rlimit::increase_nofile_limit(rlimit::INFINITY) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
    telemetry
}

/// What every main function does: prepares the process of these services, and sends what is left of its telemetry
/// when `work` has ended.
pub async fn run_process<T>(services: &[&'static str], work: impl Future<Output = T>) -> T {
    let telemetry = prepare_process(services);
    let result = work.await;
    telemetry.finish().await;
    result
}

/// Serves until a signal asks to stop, unless the settings are refused.
///
/// # Errors
/// As [`Process::run`].
pub async fn serve<P: Process>(config: P::Config) -> anyhow::Result<ExitCode> {
    if let Err(refused) = P::check(&config) {
        return Ok(refuse_to_start(&refused));
    }
    let shutdown = shutdown_on_signal()?;
    // In a box: with everything that it waits for in it, the type is too deep for the compiler.
    let running: BoxFuture<'_, anyhow::Result<()>> = Box::pin(P::run(config, Box::new(|_| {}), shutdown));
    span::as_service(P::NAME, running).await?;
    Ok(ExitCode::SUCCESS)
}

/// Says on standard error and in the log what is wrong with the settings.
pub fn refuse_to_start(refused: &Refused) -> ExitCode {
    tracing::error!("{refused}");
    // The log may go elsewhere, or be filtered.
    let _ = writeln!(std::io::stderr(), "{refused}");
    ExitCode::from(EX_CONFIG)
}
