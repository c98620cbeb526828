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

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use contract::auth::{AuthHandlers, SERVICE};
use contract::{Endpoint, Service};
use messaging::{Bucket, KeyDirectory, NatsSettings};
use service::{Running, Worker, WorkerContext};
use settings::{Environment, Refused};
use tokio::sync::Notify;

pub use config::Config;
pub use key_rotation::KeysCommand;
pub use keyring::SigningKeyRecord;
pub use operations::Auth;

use hasher::Hasher;
use renewal::Renewal;
use store::AuthStore;
use throttle::Throttle;
use tokens::TokenIssuer;

/// Answers `auth.*`.
pub struct AuthWorker {
    issuer: Arc<TokenIssuer>,
    store: Arc<AuthStore>,
    hasher: Hasher,
    renewal: Renewal,
}

impl Worker for AuthWorker {
    const SERVICE: Service = SERVICE;
    type Config = Config;
    type Handler = Auth;

    fn check(config: &Config) -> Result<(), Refused> {
        config.check()
    }

    fn admin(config: &Config) -> SocketAddr {
        config.admin
    }

    fn nats(config: &Config) -> &NatsSettings {
        &config.nats
    }

    fn endpoints() -> Vec<Endpoint<Auth>> {
        Auth::bind()
    }

    async fn open(config: &Config) -> anyhow::Result<Self> {
        let issuer = Arc::new(issuer(config)?);
        let store = open_store(config).await.context("cannot open the auth database")?;
        let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = config.password_threads.unwrap_or(cpus).get();
        let hasher =
            Hasher::start(threads, config.peppers()?).context("cannot start the password threads")?;
        let mut renewal = Renewal::default();
        renewal.renew(&store).await.context("cannot renew stored texts")?;
        if config.demo {
            seed::seed(&store, &hasher).await.context("cannot write the demo data")?;
        }
        Ok(Self { issuer, store, hasher, renewal })
    }

    fn start(self, context: &WorkerContext) -> anyhow::Result<Running<Auth>> {
        let Self { issuer, store, hasher, renewal } = self;
        let WorkerContext { client, keys, revocations, health } = context.clone();
        let directory = KeyDirectory::new(client.clone());
        let failures = Arc::new(Bucket::login_throttle(client));
        let throttle = Throttle::new(issuer.derived_key("login throttle v1"), failures, hasher.clone());
        let (revoked, published) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler =
            Auth::new(Arc::clone(&store), hasher, throttle, Arc::clone(&issuer), Arc::clone(&revoked))?;
        let is_published = Arc::clone(&published);
        Ok(Running {
            handler,
            idempotency: None,
            // Tokens whose keys are not published cannot be verified elsewhere.
            prepared: Box::pin(async move { is_published.notified().await }),
            background: Box::pin(async move {
                tokio::join!(
                    key_rotation::keep_published(&store, &issuer, &keys, &directory, &published),
                    renewal.keep_renewing(&store),
                    revocation_publisher::publish(&store, &revocations, &revoked, &health),
                    health.watch_database(|| store.ping()),
                );
            }),
        })
    }
}

/// What the auth worker does besides serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// List, rotate and revoke the keys that sign access tokens
    #[command(subcommand)]
    Keys(KeysCommand),
}

/// Carries a command out, and prints what comes of it.
///
/// # Errors
/// What cannot be done, and a database that fails.
pub async fn run_command(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    if let Err(refused) = config.check() {
        return Ok(service::refuse_to_start(&refused));
    }
    let issuer = issuer(config)?;
    let store = open_store(config).await.context("cannot open the auth database")?;
    let report = match command {
        Command::Keys(command) => key_rotation::run(command, &store, &issuer).await?,
    };
    std::io::stdout().write_all(report.as_bytes())?;
    Ok(ExitCode::SUCCESS)
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
