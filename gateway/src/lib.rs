//! The gateway: HTTP in, one NATS request-reply message per request, the reply out.

mod config;
mod documents;
mod edge;
mod extract;
mod health;
mod problem;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use shared::contract::{Problem, ProblemType};
use shared::http;
use shared::identity::{PublicKeys, Verifier};
use shared::messaging::{Caller, Connection, KeyDirectory};
use shared::ops::{self, AdminServer, Readiness};
use tokio_util::sync::CancellationToken;

pub use config::Config;

use health::Health;
use problem::Failed;
use routes::Gateway;

/// How long `JWKS` may be cached by others, which bounds how fast a key can be withdrawn.
const JWKS_CACHE: &str = "public, max-age=60";

/// Where a gateway listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The API.
    pub http: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
}

/// Serves HTTP until `shutdown`. Calls `ready` with its addresses once requests are answered.
///
/// # Errors
/// What keeps the gateway from starting, and a lost reply subscription.
pub async fn run(
    config: Config,
    ready: impl FnOnce(Addresses) + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (listener, http_address) = ops::listen(config.http, "EVENTBOARD_HTTP").await?;
    let admin = AdminServer::bind(config.admin, "EVENTBOARD_ADMIN").await?;
    let header_timeout = Duration::from_secs(config.header_timeout.max(1));
    let cors = edge::cors(&config.cors_origins)?;
    let connection = tokio::select! {
        connection = Connection::open(&config.nats, "gateway") => connection?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let caller = Caller::start(connection.clone()).await.context("cannot listen for replies")?;
    let keys = PublicKeys::unknown();
    let directory = KeyDirectory::new(connection.clone());

    let readiness = Readiness::new(&connection, &keys, &shutdown);
    let (dependencies, health) = Health::channel();
    let gateway = Arc::new(Gateway { caller: caller.clone(), verifier: Verifier::new(Arc::clone(&keys)) });
    let router = edge::surround(router(gateway, readiness.clone(), health), cors);
    let addresses = Addresses { http: http_address, admin: admin.address() };

    let background = CancellationToken::new();
    let serve = async {
        let announce = async {
            keys.known().await;
            readiness.begin();
            tracing::info!(http = %addresses.http, admin = %addresses.admin, "ready");
            ready(addresses);
            std::future::pending::<()>().await;
        };
        let served = tokio::select! {
            () = http::serve(listener, router, header_timeout, shutdown) => Ok(()),
            () = caller.broken() => Err(anyhow::anyhow!("the reply subscription ended; this process must be restarted")),
            () = announce => Ok(()),
        };
        background.cancel();
        served
    };
    let (served, (), (), ()) = tokio::join!(
        serve,
        directory.follow(Arc::clone(&keys), background.clone()),
        health::watch_dependencies(caller.clone(), dependencies, background.clone()),
        admin.serve(readiness.clone(), background.clone())
    );
    connection.close().await;
    served
}

fn router(gateway: Arc<Gateway>, readiness: Readiness, health: Health) -> Router {
    let jwks = {
        let gateway = Arc::clone(&gateway);
        move || std::future::ready(jwks(gateway.verifier.keys()))
    };
    Router::new()
        .merge(routes::auth::routes())
        .merge(routes::events::routes())
        .with_state(gateway)
        .route("/.well-known/jwks.json", get(jwks))
        .route("/health", get(move || std::future::ready(health.answer())))
        .merge(ops::health_routes(readiness))
        .merge(documents::routes())
}

fn jwks(keys: &PublicKeys) -> axum::response::Response {
    if !keys.are_known() {
        return Failed(Problem::new(ProblemType::Unavailable, "no key is known yet")).into_response();
    }
    let headers = [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, JWKS_CACHE)];
    (headers, keys.document()).into_response()
}
