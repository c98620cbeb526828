//! The auth worker: consumes `auth.*`, owns users, sessions and the signing key.

mod config;
pub mod hasher;
mod operations;
mod passwords;
mod seed;
pub mod store;
pub mod tokens;

use std::sync::Arc;

use anyhow::Context as _;
use database::DatabaseUrl;
use shared::contract::auth::{AuthHandlers, SERVICE};
use shared::identity::{PublicKeys, Verifier};
use shared::messaging::{Connection, KeyDirectory, Server};
use shared::ops::{AdminServer, Readiness};
use shared::settings::Environment;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use config::Config;

use hasher::Hasher;
use operations::Auth;
use store::{AuthStore, PostgresAuthStore, SqliteAuthStore};
use tokens::TokenIssuer;

/// Serves `auth.*` until `shutdown`. Calls `ready` with the admin address once requests are served.
///
/// # Errors
/// What keeps the worker from starting, and a lost subscription.
pub async fn run(
    config: Config,
    ready: impl FnOnce(std::net::SocketAddr) + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let admin = AdminServer::bind(config.admin, "EVENTBOARD_ADMIN").await?;
    let issuer = issuer(&config)?;
    let store = tokio::select! {
        store = open_store(&config) => store.context("cannot open the auth database")?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let hasher = Hasher::start(threads).context("cannot start the password threads")?;
    if config.demo {
        seed::seed(&*store, &hasher).await.context("cannot write the demo data")?;
    }
    let jwks = issuer.jwks();
    let keys = PublicKeys::unknown();
    keys.replace(&jwks).context("the signing key has no usable public key")?;

    let connection = tokio::select! {
        connection = Connection::open(&config.nats, "auth") => connection?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let directory = KeyDirectory::new(connection.clone());
    let handler = Arc::new(Auth::new(store, hasher, issuer));
    let verifier = Arc::new(Verifier::new(Arc::clone(&keys)));
    let server = Server::new(connection.clone(), SERVICE, Auth::bind(), handler, verifier, None);

    let address = admin.address();
    let readiness = Readiness::new(&connection, &keys, &shutdown);
    let (background, published) = (CancellationToken::new(), Notify::new());
    let serve = async {
        let announce = || {
            readiness.begin();
            tracing::info!(admin = %address, "ready");
            ready(address);
        };
        // Tokens that nobody can verify are of no use.
        let served = tokio::select! {
            () = published.notified() => server.serve(announce, shutdown.clone()).await,
            () = shutdown.cancelled() => Ok(()),
        };
        background.cancel();
        served
    };
    let (served, (), ()) = tokio::join!(
        serve,
        directory.keep_published(&jwks, &published, background.clone()),
        admin.serve(readiness.clone(), background.clone())
    );
    connection.close().await;
    Ok(served?)
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

/// Opens the configured database, whichever it is; waits for a server that is not up yet.
async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn AuthStore>> {
    Ok(match config.database.resolve(&config.data_dir.join("auth.db"))? {
        DatabaseUrl::Sqlite(path) => Arc::new(SqliteAuthStore::open(&path).await?),
        DatabaseUrl::Postgres(options) => {
            let options = options.application_name("eventboard-auth-worker");
            Arc::new(PostgresAuthStore::open(options, config.database.database_connections).await?)
        }
    })
}
