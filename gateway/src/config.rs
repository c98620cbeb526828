//! The gateway's settings: one argument and one variable each.

use std::net::SocketAddr;

use clap::Args;
use shared::settings::{Environment, NatsSettings, ProductionCheck, Refused};

/// Everything the gateway can be told.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address the API is served on
    #[arg(long, env = "EVENTBOARD_HTTP", default_value = "127.0.0.1:3000")]
    pub http: SocketAddr,
    /// Address of /livez and /readyz for operators
    #[arg(long, env = "EVENTBOARD_ADMIN", default_value = "127.0.0.1:9100")]
    pub admin: SocketAddr,
    /// How to reach the broker.
    #[command(flatten)]
    pub nats: NatsSettings,
    /// Origins that browsers may call from, separated by commas; * allows all
    #[arg(long, env = "EVENTBOARD_CORS_ORIGINS", default_value = "*", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
    /// Seconds a client may take to send a request's head; also how long an idle connection is kept
    #[arg(long, env = "EVENTBOARD_HEADER_TIMEOUT", default_value_t = 30)]
    pub header_timeout: u64,
    /// Where the system runs
    #[arg(long, env = "EVENTBOARD_ENV", value_enum, default_value_t)]
    pub env: Environment,
}

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
        if self.cors_origins.iter().any(|origin| origin.trim() == "*") {
            check.refuse("EVENTBOARD_CORS_ORIGINS", "is *: name the origins that may call from a browser");
        }
        check.finish()
    }
}
