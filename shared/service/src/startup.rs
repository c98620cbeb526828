//! How a process begins: telemetry, its limits, its admin port, and settings that it refuses.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use settings::{EX_CONFIG, Refused};
use telemetry::Telemetry;
use tokio_util::sync::CancellationToken;

use crate::admin::{AdminServer, ListenError, Status};

/// Starts what every process has: log lines, traces, metrics, and as many open files as the system grants. A
/// default of 1024 is less than the connections a gateway takes. The process is these services.
pub fn prepare_process(services: &[&'static str]) -> Telemetry {
    let telemetry = Telemetry::start(services);
    if let Err(error) = rlimit::increase_nofile_limit(rlimit::INFINITY) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
    telemetry
}

/// Runs a worker's `serve`, with its admin port beside it from the first moment on: asked while it waits for a
/// database or a broker, it says that it is not ready, and why. `serve` is given what to call once it is, which
/// calls `ready` with the admin address.
///
/// # Errors
/// A port that is taken, and what `serve` ends with.
pub async fn run_worker<'a, E, F>(
    admin: SocketAddr,
    ready: impl FnOnce(SocketAddr) + Send + 'a,
    shutdown: &CancellationToken,
    serve: impl FnOnce(Status, Box<dyn FnOnce() + Send + 'a>) -> F,
) -> Result<(), E>
where
    E: From<ListenError>,
    F: Future<Output = Result<(), E>>,
{
    let admin = AdminServer::bind(admin, "EVENTBOARD_ADMIN").await?;
    let (address, status) = (admin.address(), Status::new(&["broker", "database"], shutdown));
    let begun = status.clone();
    let announce = Box::new(move || {
        begun.begin();
        tracing::info!(admin = %address, "ready");
        ready(address);
    });
    admin.serve_while(&status, serve(status.clone(), announce)).await
}

/// Says on standard error and in the log what is wrong with the settings.
pub fn refuse_to_start(refused: &Refused) -> ExitCode {
    tracing::error!("{refused}");
    // The log may go elsewhere, or be filtered; nobody may be listening at all.
    let _ = writeln!(std::io::stderr(), "{refused}");
    ExitCode::from(EX_CONFIG)
}
