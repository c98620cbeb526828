//! The auth worker's settings: one argument and one variable each.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use contract::auth::SERVICE;
use database::DatabaseSettings;
use messaging::NatsSettings;
use secrecy::{ExposeSecret, SecretString};
use service::usual_admin;
use settings::{Environment, Refused, SAMPLE, SecretFile, SettingsCheck, secret, secret_file};

use crate::peppers::{NotPeppers, Peppers};
use crate::tokens::TokenIssuer;

const PEPPER: &str = "EVENTBOARD_PASSWORD_PEPPER";
const SIGNING_KEY: &str = "EVENTBOARD_SIGNING_KEY";

/// The key that comes with the sources.
const SAMPLE_KEY: &str = include_str!("../../deploy/sample-secrets/signing-key.pem");

/// The auth worker's settings.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address of /livez and /readyz
    #[arg(long, env = "EVENTBOARD_ADMIN", default_value_t = usual_admin(SERVICE))]
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
    pub signing_key_file: Option<SecretFile>,
    /// Peppers of password hashes, the first for new ones: <id>:<secret>, several separated by commas
    #[arg(long, env = PEPPER, hide_env_values = true, value_parser = secret, conflicts_with = "password_pepper_file")]
    pub password_pepper: Option<SecretString>,
    /// File with the peppers
    #[arg(long, env = "EVENTBOARD_PASSWORD_PEPPER_FILE", value_parser = secret_file)]
    pub password_pepper_file: Option<SecretFile>,
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
    /// Refuses settings that cannot be used, or are not fit for where the system runs.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self) -> Result<(), Refused> {
        let mut check = SettingsCheck::new(self.env);
        self.nats.check(&mut check);
        self.database.check(&mut check);
        check.file("EVENTBOARD_SIGNING_KEY_FILE", self.signing_key_file.as_ref());
        self.check_signing_key(&mut check);
        check.file("EVENTBOARD_PASSWORD_PEPPER_FILE", self.password_pepper_file.as_ref());
        let peppers = self.peppers();
        match &peppers {
            Ok(peppers) => peppers.secrets().for_each(|secret| check.secret(PEPPER, secret)),
            Err(PepperError(error)) => check.refuse(PEPPER, error),
        }
        check.demo(self.demo);
        check.finish()
    }

    /// Judges the key itself, however its text is written.
    fn check_signing_key(&self, check: &mut SettingsCheck<'_>) {
        let Some(text) = self.signing_key() else {
            if self.signing_key_file.is_none() {
                check.forbid(SIGNING_KEY, "is required: every replica needs the same one");
            }
            return;
        };
        match TokenIssuer::from_pem(text) {
            Err(_) => check.refuse(SIGNING_KEY, "is no Ed25519 private key in PKCS#8 PEM form"),
            Ok(key) => {
                let sample = TokenIssuer::from_pem(&SecretString::from(SAMPLE_KEY));
                if sample.is_ok_and(|sample| sample.has_same_key(&key)) {
                    check.forbid(SIGNING_KEY, SAMPLE);
                } else if key.has_weak_seed() {
                    check.forbid(SIGNING_KEY, "was not made at random: its bytes follow a pattern");
                }
            }
        }
    }

    /// The peppers, none if there is no such setting.
    pub(crate) fn peppers(&self) -> Result<Peppers, PepperError> {
        let file = || self.password_pepper_file.as_ref()?.secret();
        let text = self.password_pepper.as_ref().or_else(file);
        text.map_or_else(|| Ok(Peppers::default()), |text| Ok(text.expose_secret().parse()?))
    }

    pub(crate) fn signing_key(&self) -> Option<&SecretString> {
        self.signing_key.as_ref().or_else(|| self.signing_key_file.as_ref()?.secret())
    }
}
