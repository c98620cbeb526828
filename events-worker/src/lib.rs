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
use contract::{Endpoint, Service};
use messaging::idempotency::Idempotency;
use messaging::{Bucket, KeyDirectory, NatsSettings};
use service::{Running, Worker, WorkerContext};
use settings::Refused;

pub use config::Config;
pub use operations::Events;

use store::{EventStore, SqlEventStore};

/// Answers `events.*`.
pub struct EventsWorker {
    store: Arc<dyn EventStore>,
}

impl Worker for EventsWorker {
    const SERVICE: Service = SERVICE;
    type Config = Config;
    type Handler = Events;

    fn check(config: &Config) -> Result<(), Refused> {
        config.check()
    }

    fn admin(config: &Config) -> SocketAddr {
        config.admin
    }

    fn nats(config: &Config) -> &NatsSettings {
        &config.nats
    }

    fn endpoints() -> Vec<Endpoint<Events>> {
        Events::bind()
    }

    async fn open(config: &Config) -> anyhow::Result<Self> {
        let store = open_store(config).await.context("cannot open the events database")?;
        if config.demo {
            seed::seed(&*store).await.context("cannot write the demo data")?;
        }
        Ok(Self { store })
    }

    fn start(self, context: &WorkerContext) -> anyhow::Result<Running<Events>> {
        let WorkerContext { client, keys, health, .. } = context.clone();
        let (store, directory) = (Arc::clone(&self.store), KeyDirectory::new(client.clone()));
        Ok(Running {
            handler: Events::new(self.store),
            idempotency: Some(Idempotency::new(Bucket::idempotency(client))),
            prepared: Box::pin(std::future::ready(())),
            background: Box::pin(async move {
                tokio::join!(
                    retention::forget_answers(&*store),
                    retention::fold_texts(&*store),
                    directory.follow(&keys),
                    health.watch_database(|| store.ping()),
                );
            }),
        })
    }
}

/// Opens the configured database; waits for a server that is not up yet.
async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn EventStore>> {
    let settings = &config.database;
    let url = settings.resolve(&config.data_dir.join("events.db"))?.named("eventboard-events-worker");
    let (connections, cache) = (settings.database_connections, settings.database_statement_cache);
    Ok(Arc::new(SqlEventStore::open(url, connections, cache).await?))
}
