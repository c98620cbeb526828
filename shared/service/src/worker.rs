//! How every worker runs: its admin port, what it stores, the broker, its handlers, and its work beside them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use contract::{Endpoint, Service};
use futures_util::future::BoxFuture;
use identity::revocations::Revocations;
use identity::{PublicKeys, Verifier};
use messaging::idempotency::Idempotency;
use messaging::{
    Connection, NatsSettings, RequestClient, RevocationBucket, Server, watch_broker, watch_coverage,
    watch_jetstream,
};
use settings::Refused;
use telemetry::health::Health;
use tokio_util::sync::CancellationToken;

use crate::admin::{AdminServer, Status};
use crate::process::{Addresses, Process, Ready};

/// Work that goes on for as long as a worker serves.
pub type Background = BoxFuture<'static, ()>;

/// A process that answers the messages of one service.
pub trait Worker: Send + Sized + 'static {
    /// The service.
    const SERVICE: Service;
    /// The dependencies without which it can do nothing.
    const VITAL: &'static [&'static str] = &["broker", "database"];
    /// Its settings.
    type Config: Clone + Send + Sync + 'static;
    /// What carries its operations out.
    type Handler: Send + Sync + 'static;

    /// As [`Process::check`].
    ///
    /// # Errors
    /// [`Refused`].
    fn check(config: &Self::Config) -> Result<(), Refused>;

    /// The address of the admin port.
    fn admin(config: &Self::Config) -> SocketAddr;

    /// How to reach the broker.
    fn nats(config: &Self::Config) -> &NatsSettings;

    /// Every operation, bound to its handler.
    fn endpoints() -> Vec<Endpoint<Self::Handler>>;

    /// Opens what it stores; waits for a database that is not up yet. Given up when the worker is to stop.
    ///
    /// # Errors
    /// What keeps the worker from starting.
    fn open(config: &Self::Config) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Says what it answers with, and what it does besides.
    ///
    /// # Errors
    /// What keeps the worker from starting.
    fn start(self, context: &WorkerContext) -> anyhow::Result<Running<Self::Handler>>;
}

/// What every worker has of the broker. Cloning shares it.
#[derive(Debug, Clone)]
pub struct WorkerContext {
    /// Sends requests and reads buckets.
    pub client: RequestClient,
    /// The keys that tokens are verified with. The worker keeps them up to date.
    pub keys: Arc<PublicKeys>,
    /// The bucket of revocations, which is followed.
    pub revocations: Arc<RevocationBucket>,
    /// What is seen of the dependencies.
    pub health: Health,
}

/// A worker that is about to serve.
pub struct Running<H> {
    /// What carries the operations out.
    pub handler: H,
    /// The leases of keyed operations, if there are any.
    pub idempotency: Option<Idempotency>,
    /// What it waits for before it serves, besides the keys, what is revoked, and a look at each dependency.
    pub prepared: Background,
    /// What it does besides.
    pub background: Background,
}

impl<W: Worker> Process for W {
    const NAME: &'static str = W::SERVICE.worker;
    type Config = W::Config;

    fn check(config: &Self::Config) -> Result<(), Refused> {
        W::check(config)
    }

    /// The admin port is there from the first moment on: asked while the worker waits for a database or a broker,
    /// it says that it is not ready, and why.
    async fn run(config: Self::Config, ready: Ready, shutdown: CancellationToken) -> anyhow::Result<()> {
        let admin = AdminServer::bind(W::admin(&config), "EVENTBOARD_ADMIN").await?;
        let (address, status) = (admin.address(), Status::new(W::VITAL, &shutdown));
        let begun = status.clone();
        let on_ready = move || {
            begun.begin();
            tracing::info!(admin = %address, "ready");
            ready(Addresses { http: None, admin: address });
        };
        admin.serve_while(&status, serve::<W>(config, &status, on_ready, shutdown)).await
    }
}

async fn serve<W: Worker>(
    config: W::Config,
    status: &Status,
    on_ready: impl FnOnce() + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let opened = async {
        let worker = W::open(&config).await?;
        anyhow::Ok((worker, Connection::open(W::nats(&config), W::SERVICE.name).await?))
    };
    let (worker, connection) = tokio::select! {
        opened = opened => opened?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let keys = PublicKeys::unknown();
    status.needs(&connection, &keys);
    let client = RequestClient::start(connection.clone()).await.context("cannot listen for replies")?;
    let context = WorkerContext {
        keys: Arc::clone(&keys),
        revocations: Arc::new(RevocationBucket::new(client.clone())),
        health: status.health.clone(),
        client,
    };
    let Running { handler, idempotency, prepared, background } = worker.start(&context)?;
    let WorkerContext { client, revocations: bucket, health, .. } = context;
    let revocations = Revocations::unknown();
    let verifier = Arc::new(Verifier::new(keys, Arc::clone(&revocations)));
    let server = Server::new(
        connection.clone(),
        W::SERVICE.worker,
        W::endpoints(),
        Arc::new(handler),
        Arc::clone(&verifier),
        idempotency.map(Arc::new),
        health.clone(),
    );
    let background = async {
        tokio::join!(
            background,
            bucket.follow(&revocations, &health),
            watch_jetstream(&client, &health),
            watch_coverage(&connection, W::SERVICE.name, &health),
        )
    };
    let serve = async {
        let prepared = async { tokio::join!(prepared, verifier.ready(), health.looked_at()) };
        tokio::select! {
            _ = prepared => Ok(server.serve(on_ready, shutdown.clone()).await?),
            () = shutdown.cancelled() => Ok(()),
        }
    };
    let served = tokio::select! {
        served = serve => served,
        dead = watch_broker(&client, &health) => Err(dead.into()),
        _ = background => Ok(()),
    };
    connection.close().await;
    served
}
