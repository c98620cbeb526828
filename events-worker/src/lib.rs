//! The events worker: consumes `events.*`, owns events and their history.

mod config;
pub mod domain;
mod operations;
mod retention;
mod seed;
pub mod store;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use database::DatabaseUrl;
use shared::contract::events::{EventHandlers, SERVICE};
use shared::health::DEPENDENCY_TIMEOUT;
use shared::idempotency::Idempotency;
use shared::identity::{PublicKeys, Verifier};
use shared::messaging::{
    Caller, Connection, ConnectionDead, KeyDirectory, LeaseBucket, Server, watch_broker,
};
use shared::ops::{AdminServer, Status};
use tokio_util::sync::CancellationToken;

pub use config::Config;

use operations::Events;
use store::{EventStore, PostgresEventStore, SqliteEventStore};

/// Serves `events.*` until `shutdown`. Calls `ready` with the admin address once requests are served.
///
/// # Errors
/// What keeps the worker from starting, and a lost subscription.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let admin = AdminServer::bind(config.admin, "EVENTBOARD_ADMIN").await?;
    let address = admin.address();
    let status = Status::new(&["broker", "database"], &shutdown);
    let announce = || {
        status.begin();
        tracing::info!(admin = %address, "ready");
        ready(address);
    };
    // Asked meanwhile, it says that it is not ready, and why.
    admin.serve_while(&status, serve(config, &status, announce, shutdown)).await
}

async fn serve(
    config: Config,
    status: &Status,
    announce: impl FnOnce() + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let store = tokio::select! {
        store = open_store(&config) => store.context("cannot open the events database")?,
        () = shutdown.cancelled() => return Ok(()),
    };
    if config.demo {
        seed::seed(&*store).await.context("cannot write the demo data")?;
    }
    let connection = tokio::select! {
        connection = Connection::open(&config.nats, "events") => connection?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let keys = PublicKeys::unknown();
    status.needs(&connection, &keys);
    let caller = Caller::start(connection.clone()).await.context("cannot listen for replies")?;
    let handler = Arc::new(Events::new(Arc::clone(&store)));
    let verifier = Arc::new(Verifier::new(Arc::clone(&keys)));
    let idempotency = Some(Arc::new(Idempotency::new(LeaseBucket::new(caller.clone()))));
    let health = &status.health;
    let server = Server::new(
        connection.clone(),
        SERVICE,
        Events::bind(),
        handler,
        verifier,
        idempotency,
        health.clone(),
    );
    let directory = KeyDirectory::new(connection.clone());
    let (database, broker) = (&*store, &caller);
    let background = async {
        tokio::join!(
            retention::forget_answers(&*store),
            directory.follow(Arc::clone(&keys)),
            health.watch("database", || async move {
                // Without the reason, which may name what is nobody else's business: /health is public.
                let answer = database.ping().await.inspect_err(|error| tracing::debug!(%error, "no answer"));
                answer.map(|()| None).map_err(|_| "cannot be reached")
            }),
            health.watch("jetstream", || async move {
                broker.ask_jetstream(DEPENDENCY_TIMEOUT).await.map(|()| None)
            }),
        )
    };
    let serve = async {
        tokio::select! {
            () = keys.known() => Ok(server.serve(announce, shutdown.clone()).await?),
            () = shutdown.cancelled() => Ok(()),
        }
    };
    let served = tokio::select! {
        served = serve => served,
        dead = watch_broker(&caller, health) => Err(dead.into()),
        () = caller.broken() => Err(ConnectionDead.into()),
        _ = background => Ok(()),
    };
    connection.close().await;
    served
}

/// Opens the configured database, whichever it is; waits for a server that is not up yet.
async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn EventStore>> {
    Ok(match config.database.resolve(&config.data_dir.join("events.db"))? {
        DatabaseUrl::Sqlite(path) => Arc::new(SqliteEventStore::open(&path).await?),
        DatabaseUrl::Postgres(options) => {
            let options = options.application_name("eventboard-events-worker");
            Arc::new(PostgresEventStore::open(options, config.database.database_connections).await?)
        }
    })
}
