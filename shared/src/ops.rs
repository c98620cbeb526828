//! What operators see of a process: its health, and how it is asked to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http;
use crate::identity::PublicKeys;
use crate::messaging::Connection;
use crate::settings::Refused;

/// How long an operator's client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a process needs to serve: a link to the broker, keys to verify with, that it has begun, and nobody
/// who asked it to stop. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Readiness {
    connection: Connection,
    keys: Arc<PublicKeys>,
    begun: Arc<AtomicBool>,
    shutdown: CancellationToken,
}

impl Readiness {
    /// Judges by these whenever somebody asks.
    pub fn new(connection: &Connection, keys: &Arc<PublicKeys>, shutdown: &CancellationToken) -> Self {
        Self {
            connection: connection.clone(),
            keys: Arc::clone(keys),
            begun: Arc::default(),
            shutdown: shutdown.clone(),
        }
    }

    /// Says that requests are served from now on.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Release);
    }

    fn checks(&self) -> [(&'static str, bool); 3] {
        [
            ("broker", self.connection.is_connected()),
            ("keys", self.keys.are_known()),
            ("accepting", self.begun.load(Ordering::Acquire) && !self.shutdown.is_cancelled()),
        ]
    }
}

/// `/livez` and `/readyz`.
pub fn health_routes<S: Clone + Send + Sync + 'static>(readiness: Readiness) -> Router<S> {
    Router::new()
        .route("/livez", get(|| async { Json(json!({ "status": "pass" })) }))
        .route("/readyz", get(move || std::future::ready(ready(readiness.checks()))))
}

fn ready(checks: [(&'static str, bool); 3]) -> Response {
    let named = |pass: bool| if pass { "pass" } else { "fail" };
    let all = checks.iter().all(|(_, pass)| *pass);
    let code = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let checks: serde_json::Map<_, _> =
        checks.iter().map(|(name, pass)| ((*name).to_owned(), json!({ "status": named(*pass) }))).collect();
    (code, Json(json!({ "status": named(all), "checks": checks }))).into_response()
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

    /// Serves `/livez` and `/readyz` until `shutdown`.
    pub async fn serve(self, readiness: Readiness, shutdown: CancellationToken) {
        http::serve(self.listener, health_routes(readiness), HEADER_TIMEOUT, shutdown).await;
    }
}

/// What a process ends with whose settings are wrong: `EX_CONFIG` of `sysexits.h`. Starting it again would
/// not help.
const EX_CONFIG: u8 = 78;

/// Says on standard error and in the log what is wrong with the settings.
pub fn refuse_to_start(refused: &Refused) -> ExitCode {
    tracing::error!("{refused}");
    // The log may go elsewhere, or be filtered; nobody may be listening at all.
    let _ = writeln!(std::io::stderr(), "{refused}");
    ExitCode::from(EX_CONFIG)
}

/// A token that is cancelled by Ctrl-C or SIGTERM. A second signal ends the process at once.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = token.clone();
    // Lives as long as the process, like the signals it waits for.
    tokio::spawn(async move {
        for count in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if count > 0 {
                std::process::exit(130);
            }
            tracing::info!("stopping; a second signal stops at once");
            cancelled.cancel();
        }
    });
    Ok(token)
}
