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
use shared::idempotency::Idempotency;
use shared::identity::{PublicKeys, Verifier};
use shared::messaging::{Connection, KeyDirectory, LeaseBucket, Server};
use shared::ops::{AdminServer, Readiness};
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
    let handler = Arc::new(Events::new(Arc::clone(&store)));
    let verifier = Arc::new(Verifier::new(Arc::clone(&keys)));
    let leases = LeaseBucket::open(connection.clone()).await.context("cannot listen for replies")?;
    let idempotency = Some(Arc::new(Idempotency::new(leases)));
    let server = Server::new(connection.clone(), SERVICE, Events::bind(), handler, verifier, idempotency);

    let address = admin.address();
    let readiness = Readiness::new(&connection, &keys, &shutdown);
    let background = CancellationToken::new();
    let serve = async {
        let announce = || {
            readiness.begin();
            tracing::info!(admin = %address, "ready");
            ready(address);
        };
        let served = tokio::select! {
            () = keys.known() => server.serve(announce, shutdown.clone()).await,
            () = shutdown.cancelled() => Ok(()),
        };
        background.cancel();
        served
    };
    let directory = KeyDirectory::new(connection.clone());
    let (served, (), (), ()) = tokio::join!(
        serve,
        retention::forget_answers(&*store, background.clone()),
        directory.follow(Arc::clone(&keys), background.clone()),
        admin.serve(readiness.clone(), background.clone())
    );
    connection.close().await;
    Ok(served?)
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
