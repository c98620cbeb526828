//! The events worker's settings: one argument and one variable each.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use database::DatabaseUrl;
use shared::settings::NatsSettings;

/// Everything the events worker can be told.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address of /livez and /readyz
    #[arg(long, env = "EVENTBOARD_ADMIN", default_value = "127.0.0.1:9102")]
    pub admin: SocketAddr,
    /// How to reach the broker.
    #[command(flatten)]
    pub nats: NatsSettings,
    /// Database: sqlite:<path> [default: events.db in the data directory]
    #[arg(long, env = "EVENTBOARD_DATABASE_URL")]
    pub database_url: Option<DatabaseUrl>,
    /// Directory for the default database
    #[arg(long, env = "EVENTBOARD_DATA_DIR", default_value = "./.eventboard")]
    pub data_dir: PathBuf,
    /// Create the demo events
    #[arg(long, env = "EVENTBOARD_DEMO", default_value_t = false, action = clap::ArgAction::Set)]
    pub demo: bool,
}

impl Config {
    pub(crate) fn database(&self) -> DatabaseUrl {
        self.database_url.clone().unwrap_or_else(|| DatabaseUrl::Sqlite(self.data_dir.join("events.db")))
    }
}
