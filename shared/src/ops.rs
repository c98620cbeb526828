//! What operators see of a process: its health, and how it is asked to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{self, Health};
use crate::http::{self, Limits};
use crate::identity::PublicKeys;
use crate::messaging::Connection;
use crate::metrics;
use crate::settings::{EX_CONFIG, Refused};
use crate::telemetry::Telemetry;

/// How long an operator's client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an operator's client may be idle: longer than Prometheus is between two scrapes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Operators' clients at once; one more closes the one that has been idle for longest.
const MAX_CONNECTIONS: usize = 64;

/// What operators may ask of a process, from the moment it starts: whether it serves, and what it sees of what
/// it depends on. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Status {
    /// What is seen of the dependencies.
    pub health: Health,
    needs: Arc<Needs>,
    shutdown: CancellationToken,
}

/// What a process needs to serve.
#[derive(Debug, Default)]
struct Needs {
    connection: OnceLock<Connection>,
    keys: OnceLock<Arc<PublicKeys>>,
    begun: AtomicBool,
}

impl Status {
    /// A process that starts, and stops with `shutdown`. Without one of the `vital` dependencies it can do
    /// nothing.
    pub fn new(vital: &'static [&'static str], shutdown: &CancellationToken) -> Self {
        Self { health: Health::new(vital), needs: Arc::default(), shutdown: shutdown.clone() }
    }

    /// Says what is needed to serve: this link to the broker, and these keys to verify with.
    pub fn needs(&self, connection: &Connection, keys: &Arc<PublicKeys>) {
        // Said once in a process's life.
        let _ = self.needs.connection.set(connection.clone());
        let _ = self.needs.keys.set(Arc::clone(keys));
    }

    /// Says that requests are served from now on.
    pub fn begin(&self) {
        self.needs.begun.store(true, Ordering::Release);
    }

    /// Whether the process has been asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    fn ready(&self) -> Response {
        let checks = [
            ("broker", self.needs.connection.get().is_some_and(Connection::is_usable)),
            ("keys", self.needs.keys.get().is_some_and(|keys| keys.are_known())),
            ("accepting", self.needs.begun.load(Ordering::Acquire) && !self.is_stopping()),
        ];
        let named = |pass: bool| if pass { "pass" } else { "fail" };
        let all = checks.iter().all(|(_, pass)| *pass);
        let code = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let checks: serde_json::Map<_, _> = checks
            .iter()
            .map(|(name, pass)| ((*name).to_owned(), json!({ "status": named(*pass) })))
            .collect();
        (code, Json(json!({ "status": named(all), "checks": checks }))).into_response()
    }

    fn report(&self) -> Response {
        let report = self.health.report();
        let failed = report.status == health::Status::Fail;
        let code = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (code, Json(report)).into_response()
    }
}

/// `/livez`, `/readyz` and `/health`.
pub fn health_routes<S: Clone + Send + Sync + 'static>(status: &Status) -> Router<S> {
    let (ready, health) = (status.clone(), status.clone());
    Router::new()
        .route("/livez", get(|| async { Json(json!({ "status": "pass" })) }))
        .route("/readyz", get(move || std::future::ready(ready.ready())))
        .route("/health", get(move || std::future::ready(health.report())))
}

async fn refuse_unclear_host(request: Request, next: Next) -> Response {
    if http::has_valid_host(&request) {
        next.run(request).await
    } else {
        StatusCode::BAD_REQUEST.into_response()
    }
}

/// The listener operators use, apart from the one clients use.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
}

/// A listening address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; set {variable} to another address")]
pub struct ListenError {
    address: SocketAddr,
    variable: &'static str,
    source: std::io::Error,
}

/// Listens on `address`, which `variable` sets.
///
/// # Errors
/// [`ListenError`], which names both.
pub async fn listen(
    address: SocketAddr,
    variable: &'static str,
) -> Result<(TcpListener, SocketAddr), ListenError> {
    let failed = |source| ListenError { address, variable, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl AdminServer {
    /// Listens on `address`, which `variable` sets.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(address: SocketAddr, variable: &'static str) -> Result<Self, ListenError> {
        let (listener, address) = listen(address, variable).await?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `/livez`, `/readyz`, `/health` and `/metrics` for as long as `work` takes, whose result it returns.
    pub async fn serve_while<T>(self, status: &Status, work: impl Future<Output = T>) -> T {
        let router = health_routes(status).route("/metrics", get(|| std::future::ready(metrics::page())));
        let router = router.layer(middleware::from_fn(refuse_unclear_host));
        let ended = CancellationToken::new();
        let limits = Limits {
            header_timeout: HEADER_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            max_connections: MAX_CONNECTIONS,
        };
        let serve = http::serve(self.listener, router, limits, ended.clone());
        let work = async {
            let result = work.await;
            ended.cancel();
            result
        };
        tokio::join!(work, serve).0
    }
}

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

/// A token that is cancelled by Ctrl-C, SIGTERM or SIGHUP, which a closed terminal sends. A second signal ends the process at once.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Whoever ignores it, as `nohup` does, wants the process to go on.
    let mut hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
    let cancelled = token.clone();
    // Lives as long as the process, like the signals it waits for.
    tokio::spawn(async move {
        loop {
            let hung_up = async {
                match &mut hang_up {
                    Some(hang_up) => hang_up.recv().await,
                    None => std::future::pending().await,
                }
            };
            let by_hang_up = tokio::select! {
                _ = interrupt.recv() => false,
                _ = terminate.recv() => false,
                _ = hung_up => true,
            };
            if !cancelled.is_cancelled() {
                tracing::info!("stopping; a second signal stops at once");
                cancelled.cancel();
            } else if !by_hang_up {
                // A terminal that closes while the process stops is no second request.
                std::process::exit(130);
            }
        }
    });
    Ok(token)
}

/// Whether SIGHUP was ignored when the process began, as Linux tells it.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
