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
use tokio_util::sync::CancellationToken;

pub use config::Config;

use hasher::Hasher;
use operations::Auth;
use store::SqliteAuthStore;
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
    let DatabaseUrl::Sqlite(path) = config.database()?;
    let store = SqliteAuthStore::open(&path).await.context("cannot open the auth database")?;
    let issuer = match (config.signing_key(), config.env) {
        (Some(pem), _) => TokenIssuer::from_pem(pem)?,
        (None, Environment::Production) => anyhow::bail!("EVENTBOARD_SIGNING_KEY is required in production"),
        (None, Environment::Development) => {
            TokenIssuer::from_file_or_generate(&config.data_dir.join("signing-key.pem"))?
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let hasher = Hasher::start(threads).context("cannot start the password threads")?;
    if config.demo {
        seed::seed(&store, &hasher).await.context("cannot write the demo data")?;
    }
    let jwks = issuer.jwks();
    let keys = PublicKeys::unknown();
    keys.replace(&jwks).context("the signing key has no usable public key")?;

    let connection = tokio::select! {
        connection = Connection::open(&config.nats, "auth") => connection?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let directory = KeyDirectory::new(connection.clone());
    directory.publish(&jwks, config.replicas).await.context("cannot publish the public keys")?;
    let handler = Arc::new(Auth::new(Arc::new(store), hasher, issuer));
    let verifier = Arc::new(Verifier::new(Arc::clone(&keys)));
    let server = Server::new(connection.clone(), SERVICE, Auth::bind(), handler, verifier);

    let address = admin.address();
    let readiness = Readiness::new(&connection, &keys, &shutdown);
    let background = CancellationToken::new();
    let serve = async {
        let announce = move || {
            tracing::info!(admin = %address, "ready");
            ready(address);
        };
        let served = server.serve(announce, shutdown).await;
        background.cancel();
        served
    };
    let (served, (), ()) = tokio::join!(
        serve,
        directory.keep_published(&jwks, config.replicas, background.clone()),
        admin.serve(readiness, background.clone())
    );
    connection.close().await;
    Ok(served?)
}
