//! The auth worker's settings: one argument and one variable each.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use database::DatabaseSettings;
use secrecy::{ExposeSecret, SecretString};
use shared::settings::{Environment, NatsSettings, ProductionCheck, Refused, secret, secret_file};

use crate::peppers::{NotPeppers, Peppers};

const PEPPER: &str = "EVENTBOARD_PASSWORD_PEPPER";
const SIGNING_KEY: &str = "EVENTBOARD_SIGNING_KEY";

/// The key that comes with the sources, without the lines around it.
fn sample_key() -> &'static str {
    include_str!("../../deploy/sample-secrets/signing-key.pem").lines().nth(1).unwrap_or_default()
}

/// Everything the auth worker can be told.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address of /livez and /readyz
    #[arg(long, env = "EVENTBOARD_ADMIN", default_value = "127.0.0.1:9101")]
    pub admin: SocketAddr,
    /// How to reach the broker.
    #[command(flatten)]
    pub nats: NatsSettings,
    /// The database: without one, auth.db in the data directory.
    #[command(flatten)]
    pub database: DatabaseSettings,
    /// Directory for the default database and the generated signing key
    #[arg(long, env = "EVENTBOARD_DATA_DIR", default_value = "./.eventboard")]
    pub data_dir: PathBuf,
    /// Ed25519 signing key, PKCS#8 PEM [default in development: generated into the data directory]
    #[arg(long, env = SIGNING_KEY, hide_env_values = true, value_parser = secret, conflicts_with = "signing_key_file")]
    pub signing_key: Option<SecretString>,
    /// File with the signing key
    #[arg(long, env = "EVENTBOARD_SIGNING_KEY_FILE", value_parser = secret_file)]
    pub signing_key_file: Option<SecretString>,
    /// Peppers of password hashes, the first for new ones: <id>:<secret>, several separated by commas
    #[arg(long, env = PEPPER, hide_env_values = true, value_parser = secret, conflicts_with = "password_pepper_file")]
    pub password_pepper: Option<SecretString>,
    /// File with the peppers
    #[arg(long, env = "EVENTBOARD_PASSWORD_PEPPER_FILE", value_parser = secret_file)]
    pub password_pepper_file: Option<SecretString>,
    /// Threads that hash passwords, 19 MiB each [default: one per CPU]
    #[arg(long, env = "EVENTBOARD_PASSWORD_THREADS")]
    pub password_threads: Option<NonZeroUsize>,
    /// Create the demo organisations and users
    #[arg(long, env = "EVENTBOARD_DEMO", default_value_t = false, action = clap::ArgAction::Set)]
    pub demo: bool,
    /// Where the system runs
    #[arg(long, env = "EVENTBOARD_ENV", value_enum, default_value_t)]
    pub env: Environment,
}

/// Peppers that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{PEPPER}: {0}")]
pub(crate) struct PepperError(#[from] NotPeppers);

impl Config {
    /// Refuses settings that are not fit for where the system runs.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self) -> Result<(), Refused> {
        if self.env == Environment::Development {
            return Ok(());
        }
        let mut check = ProductionCheck::default();
        self.nats.check(&mut check);
        self.database.check(&mut check);
        match self.signing_key().map(|key| key.expose_secret().contains(sample_key())) {
            None => check.refuse(SIGNING_KEY, "is required: every replica needs the same one"),
            Some(true) => check.refuse(SIGNING_KEY, "is a sample that everybody knows"),
            Some(false) => {}
        }
        let peppers = self.peppers();
        match &peppers {
            Ok(peppers) => peppers.secrets().for_each(|secret| check.secret(PEPPER, secret)),
            Err(PepperError(error)) => check.refuse(PEPPER, error),
        }
        check.demo(self.demo);
        check.finish()
    }

    /// The peppers, none if there is no such setting.
    pub(crate) fn peppers(&self) -> Result<Peppers, PepperError> {
        let text = self.password_pepper.as_ref().or(self.password_pepper_file.as_ref());
        text.map_or_else(|| Ok(Peppers::default()), |text| Ok(text.expose_secret().parse()?))
    }

    pub(crate) fn signing_key(&self) -> Option<&SecretString> {
        self.signing_key.as_ref().or(self.signing_key_file.as_ref())
    }
}
