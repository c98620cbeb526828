//! The auth worker: consumes `auth.*`, owns users, sessions and the signing key.

mod config;
pub mod hasher;
mod key_rotation;
mod keyring;
mod metrics;
mod operations;
mod password_policy;
pub mod peppers;
mod renewal;
mod revocation_publisher;
mod seed;
pub mod store;
mod throttle;
pub mod tokens;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Context as _;
use contract::auth::{AuthHandlers, SERVICE};
use identity::revocations::Revocations;
use identity::{PublicKeys, Verifier};
use messaging::{
    Bucket, Connection, KeyDirectory, RequestClient, RevocationBucket, Server, watch_broker, watch_coverage,
    watch_jetstream,
};
use service::Status;
use settings::Environment;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use key_rotation::KeysCommand;
pub use keyring::SigningKeyRecord;

use hasher::Hasher;
use operations::Auth;
use renewal::Renewal;
use store::AuthStore;
use throttle::Throttle;
use tokens::TokenIssuer;

/// Serves `auth.*` until `shutdown`. Calls `ready` with the admin address once requests are served.
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

/// What the auth worker does besides serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// List, rotate and revoke the keys that sign access tokens
    #[command(subcommand)]
    Keys(KeysCommand),
}

/// Carries a command out, and returns what to print.
///
/// # Errors
/// What cannot be done, and a database that fails.
pub async fn run_command(config: &Config, command: Command) -> anyhow::Result<String> {
    let issuer = issuer(config)?;
    let store = open_store(config).await.context("cannot open the auth database")?;
    match command {
        Command::Keys(command) => key_rotation::run(command, &store, &issuer).await,
    }
}

async fn serve(
    config: Config,
    status: Status,
    announce: impl FnOnce() + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let issuer = Arc::new(issuer(&config)?);
    let store = tokio::select! {
        store = open_store(&config) => store.context("cannot open the auth database")?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = config.password_threads.unwrap_or(cpus).get();
    let hasher = Hasher::start(threads, config.peppers()?).context("cannot start the password threads")?;
    let mut renewal = Renewal::default();
    renewal.renew(&store).await.context("cannot renew stored texts")?;
    if config.demo {
        seed::seed(&store, &hasher).await.context("cannot write the demo data")?;
    }
    let keys = PublicKeys::unknown();

    let connection = tokio::select! {
        connection = Connection::open(&config.nats, "auth") => connection?,
        () = shutdown.cancelled() => return Ok(()),
    };
    status.needs(&connection, &keys);
    let client = RequestClient::start(connection.clone()).await.context("cannot listen for replies")?;
    let directory = KeyDirectory::new(client.clone());
    let revoked = Arc::new(Notify::new());
    let failures = Arc::new(Bucket::login_throttle(client.clone()));
    let throttle = Throttle::new(issuer.derived_key("login throttle v1"), failures, threads);
    let handler = Auth::new(Arc::clone(&store), hasher, throttle, Arc::clone(&issuer), Arc::clone(&revoked))?;
    let handler = Arc::new(handler);
    let revocations = Revocations::unknown();
    let revocation_bucket = RevocationBucket::new(client.clone());
    let verifier = Arc::new(Verifier::new(Arc::clone(&keys), Arc::clone(&revocations)));
    let health = &status.health;
    let server = Server::new(
        connection.clone(),
        SERVICE.worker,
        Auth::bind(),
        handler,
        verifier,
        None,
        health.clone(),
    );
    let published = Notify::new();
    let background = async {
        tokio::join!(
            key_rotation::keep_published(&store, &issuer, &keys, &directory, &published),
            renewal.keep_renewing(&store),
            revocation_publisher::publish(&store, &revocation_bucket, &revoked, health),
            revocation_bucket.follow(&revocations, health),
            health.watch_database(|| store.ping()),
            watch_jetstream(&client, health),
            watch_coverage(&connection, SERVICE.name, health),
        )
    };
    let serve = async {
        // Tokens that nobody can verify are of no use.
        let prepared = async { tokio::join!(published.notified(), revocations.known(), health.looked_at()) };
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

/// The configured signing key, or, in development, one of this data directory's own.
fn issuer(config: &Config) -> anyhow::Result<TokenIssuer> {
    match (config.signing_key(), config.env) {
        (Some(pem), _) => Ok(TokenIssuer::from_pem(pem)?),
        (None, Environment::Production) => anyhow::bail!("EVENTBOARD_SIGNING_KEY is required in production"),
        (None, Environment::Development) => {
            let directory = &config.data_dir;
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create the data directory {}", directory.display()))?;
            Ok(TokenIssuer::from_file_or_generate(&directory.join("signing-key.pem"))?)
        }
    }
}

/// Opens the configured database; waits for a server that is not up yet.
async fn open_store(config: &Config) -> anyhow::Result<Arc<AuthStore>> {
    let settings = &config.database;
    let url = settings.resolve(&config.data_dir.join("auth.db"))?.named("eventboard-auth-worker");
    let (connections, cache) = (settings.database_connections, settings.database_statement_cache);
    Ok(Arc::new(AuthStore::open(url, connections, cache).await?))
}
