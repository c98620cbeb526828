//! The gateway: HTTP in, one NATS request-reply message per request, the reply out.

mod api_docs;
mod config;
mod extract;
mod fields;
mod headers;
mod health;
mod metrics;
mod middleware;
mod problem;
mod rate_limit;
mod resilience;
mod routes;
mod state;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use contract::{Precondition, Problem, ProblemType};
use identity::revocations::Revocations;
use identity::{PublicKeys, Verifier};
use messaging::{Connection, KeyDirectory, RequestClient, RevocationBucket, watch_broker};
use service::http::{self, Limits};
use service::{Addresses, AdminServer, Process, Ready, Status};
use settings::Refused;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use config::{ADMIN_PORT, Config, CorsOrigins, NotAnOrigin};
pub use middleware::NAME;
pub use rate_limit::{NotARateLimit, RateLimit};

use problem::ProblemResponse;
use rate_limit::Limiter;
use state::AppState;
use upstream::Upstream;

/// How long after its start a gateway holds requests that need a token instead of refusing them: it learns the keys
/// and what is revoked within milliseconds of reaching the broker.
const START_HOLD: Duration = Duration::from_secs(3);

/// How long `JWKS` may be cached by others, which bounds how fast a key can be withdrawn.
const JWKS_CACHE: &str = "public, max-age=60";

/// Turns HTTP requests into messages.
pub struct Gateway;

impl Process for Gateway {
    const NAME: &'static str = NAME;
    type Config = Config;

    fn check(config: &Config) -> Result<(), Refused> {
        config.check()
    }

    async fn run(config: Config, ready: Ready, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (listener, http) = service::listen(config.http, "EVENTBOARD_HTTP").await?;
        let admin = AdminServer::bind(config.admin, "EVENTBOARD_ADMIN").await?;
        let addresses = Addresses { http: Some(http), admin: admin.address() };
        let status = Status::new(&["broker"], &shutdown);
        let on_ready = || {
            status.begin();
            tracing::info!(%http, admin = %addresses.admin, "ready");
            ready(addresses);
        };
        admin.serve_while(&status, serve(config, listener, &status, on_ready, shutdown)).await
    }
}

async fn serve(
    config: Config,
    listener: TcpListener,
    status: &Status,
    on_ready: impl FnOnce() + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let cors = middleware::cors::cors(&config.cors_origins);
    // Not waited for: without a broker every request is answered with 503, at once.
    let connection = Connection::begin(&config.nats, "gateway").await?;
    let keys = PublicKeys::unknown();
    status.needs(&connection, &keys);
    let client = RequestClient::start(connection.clone()).await.context("cannot listen for replies")?;
    let revocations = Revocations::unknown();
    let revocation_bucket = RevocationBucket::new(client.clone());
    let gateway = Arc::new(AppState {
        upstream: Upstream::new(client.clone(), config.max_in_flight, config.breakers),
        hold_until: Instant::now() + START_HOLD,
        verifier: Verifier::new(Arc::clone(&keys), Arc::clone(&revocations)),
        users: Limiter::new("user", config.rate_limit_user),
        addresses: Limiter::new("ip", config.rate_limit_ip),
        trusted_hops: config.trusted_hops,
    });
    let router = middleware::surround(router(Arc::clone(&gateway), status), cors, status.clone());
    let limits = Limits {
        header_timeout: Duration::from_secs(config.header_timeout.max(1)),
        idle_timeout: Duration::from_secs(config.idle_timeout.max(1)),
        max_connections: config.max_connections,
    };
    let closing = CancellationToken::new();
    let close = async {
        shutdown.cancelled().await;
        // Load balancers ask /readyz, and stop sending requests here.
        tokio::time::sleep(Duration::from_secs(config.drain_delay)).await;
        closing.cancel();
        std::future::pending::<()>().await;
    };
    let on_ready = async {
        tokio::join!(gateway.verifier.ready(), status.health.looked_at());
        on_ready();
        std::future::pending::<()>().await;
    };
    let directory = KeyDirectory::new(client.clone());
    let background = async {
        tokio::join!(
            directory.follow(&keys),
            revocation_bucket.follow(&revocations, &status.health),
            health::watch_dependencies(&client, &gateway.upstream, &status.health),
            gateway.users.forget_quiet_clients(),
            gateway.addresses.forget_quiet_clients(),
        )
    };
    let served = tokio::select! {
        () = http::serve(listener, router, limits, closing.clone()) => Ok(()),
        dead = watch_broker(&client, &status.health) => Err(dead.into()),
        () = close => Ok(()),
        () = on_ready => Ok(()),
        _ = background => Ok(()),
    };
    connection.close().await;
    served
}

fn router(gateway: Arc<AppState>, status: &Status) -> Router {
    let jwks = {
        let gateway = Arc::clone(&gateway);
        move |headers: HeaderMap| std::future::ready(jwks(gateway.verifier.keys(), &headers))
    };
    let limit = axum::middleware::from_fn_with_state(Arc::clone(&gateway), rate_limit::limit_address);
    Router::new()
        .merge(routes::routes())
        .with_state(gateway)
        .route("/.well-known/jwks.json", get(jwks))
        .merge(api_docs::routes())
        .fallback(middleware::unknown_route)
        .layer(limit)
        // Outside the rate limit: probes must not be kept out by other requests.
        .merge(service::health_routes(status))
}

fn jwks(keys: &PublicKeys, headers: &HeaderMap) -> axum::response::Response {
    if !keys.are_known() {
        return ProblemResponse(Problem::new(ProblemType::Unavailable, "no key is known yet"))
            .into_response();
    }
    let tag = keys.document_tag();
    let validators = [(header::ETAG, tag.to_string()), (header::CACHE_CONTROL, JWKS_CACHE.to_owned())];
    let held = extract::precondition(headers, &header::IF_NONE_MATCH).ok().flatten();
    if held.and_then(|held| Precondition::parse(&held)).is_some_and(|held| held.matches_weakly(tag)) {
        return (StatusCode::NOT_MODIFIED, validators).into_response();
    }
    let media_type = [(header::CONTENT_TYPE, "application/jwk-set+json")];
    (validators, media_type, keys.document()).into_response()
}
