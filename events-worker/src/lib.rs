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
use contract::events::{EventHandlers, SERVICE};
use identity::revocations::Revocations;
use identity::{PublicKeys, Verifier};
use messaging::idempotency::Idempotency;
use messaging::{
    Bucket, Connection, KeyDirectory, RequestClient, RevocationBucket, Server, watch_broker, watch_coverage,
    watch_jetstream,
};
use service::Status;
use tokio_util::sync::CancellationToken;

pub use config::Config;

use operations::Events;
use store::{EventStore, SqlEventStore};

/// Serves `events.*` until `shutdown`. Calls `ready` with the admin address once requests are served.
///
/// # Errors
/// What keeps the worker from starting, and a lost subscription.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let admin = config.admin;
    service::run_worker(admin, ready, &shutdown, |status, announce| {
        serve(config, status, announce, shutdown.clone())
    })
    .await
}

async fn serve(
    config: Config,
    status: Status,
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
    let client = RequestClient::start(connection.clone()).await.context("cannot listen for replies")?;
    let handler = Arc::new(Events::new(Arc::clone(&store)));
    let revocations = Revocations::unknown();
    let revocation_bucket = RevocationBucket::new(client.clone());
    let verifier = Arc::new(Verifier::new(Arc::clone(&keys), Arc::clone(&revocations)));
    let idempotency = Some(Arc::new(Idempotency::new(Bucket::idempotency(client.clone()))));
    let health = &status.health;
    let server = Server::new(
        connection.clone(),
        SERVICE.worker,
        Events::bind(),
        handler,
        Arc::clone(&verifier),
        idempotency,
        health.clone(),
    );
    let directory = KeyDirectory::new(client.clone());
    let background = async {
        tokio::join!(
            retention::forget_answers(&*store),
            retention::fold_texts(&*store),
            directory.follow(&keys),
            revocation_bucket.follow(&revocations, health),
            health.watch_database(|| store.ping()),
            watch_jetstream(&client, health),
            watch_coverage(&connection, SERVICE.name, health),
        )
    };
    let serve = async {
        let prepared = async { tokio::join!(verifier.ready(), health.looked_at()) };
        tokio::select! {
            _ = prepared => Ok(server.serve(announce, shutdown.clone()).await?),
            () = shutdown.cancelled() => Ok(()),
        }
    };
    let served = tokio::select! {
        served = serve => served,
        dead = watch_broker(&client, health) => Err(dead.into()),
        _ = background => Ok(()),
    };
    connection.close().await;
    served
}

/// Opens the configured database; waits for a server that is not up yet.
async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn EventStore>> {
    let settings = &config.database;
    let url = settings.resolve(&config.data_dir.join("events.db"))?.named("eventboard-events-worker");
    let (connections, cache) = (settings.database_connections, settings.database_statement_cache);
    Ok(Arc::new(SqlEventStore::open(url, connections, cache).await?))
}
