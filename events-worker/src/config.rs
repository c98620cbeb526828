//! The events worker's settings: one argument and one variable each.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use contract::events::SERVICE;
use database::DatabaseSettings;
use messaging::NatsSettings;
use service::usual_admin;
use settings::{Environment, Refused, SettingsCheck};

/// The events worker's settings.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address of /livez and /readyz
    #[arg(long, env = "EVENTBOARD_ADMIN", default_value_t = usual_admin(SERVICE))]
    pub admin: SocketAddr,
    /// How to reach the broker.
    #[command(flatten)]
    pub nats: NatsSettings,
    /// The database: without one, events.db in the data directory.
    #[command(flatten)]
    pub database: DatabaseSettings,
    /// Directory for the default database
    #[arg(long, env = "EVENTBOARD_DATA_DIR", default_value = "./.eventboard")]
    pub data_dir: PathBuf,
    /// Create the demo events
    #[arg(long, env = "EVENTBOARD_DEMO", default_value_t = false, action = clap::ArgAction::Set)]
    pub demo: bool,
    /// Where the system runs
    #[arg(long, env = "EVENTBOARD_ENV", value_enum, default_value_t)]
    pub env: Environment,
}

impl Config {
    /// Refuses settings that cannot be used, or are not fit for where the system runs.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self) -> Result<(), Refused> {
        let mut check = SettingsCheck::new(self.env);
        self.nats.check(&mut check);
        self.database.check(&mut check);
        check.demo(self.demo);
        check.finish()
    }
}
