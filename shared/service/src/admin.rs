//! What operators see of a process: whether it serves, its health, and its metrics.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use contract::Service;
use identity::PublicKeys;
use messaging::Connection;
use serde_json::json;
use telemetry::health::{self, Health};
use telemetry::metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Limits};

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

fn metrics_page() -> Response {
    match metrics::page() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
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

/// Where a worker's admin port is by default.
pub fn usual_admin(service: Service) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, service.admin_port))
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
        let router = health_routes(status).route("/metrics", get(|| std::future::ready(metrics_page())));
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
