//! The gateway's settings: one argument and one variable each.

use std::net::SocketAddr;

use clap::Args;
use shared::settings::{Environment, NatsSettings, ProductionCheck, Refused};

use crate::limits::RateLimit;

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}

/// Everything the gateway can be told.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address the API is served on
    #[arg(long, env = "EVENTBOARD_HTTP", default_value = "127.0.0.1:3000")]
    pub http: SocketAddr,
    /// Address of /livez, /readyz, /health and /metrics for operators
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
    /// Connections at once; one more closes the one whose client has kept us waiting for longest
    #[arg(long, env = "EVENTBOARD_MAX_CONNECTIONS", default_value_t = 4096, value_parser = at_least_one)]
    pub max_connections: usize,
    /// Reads, and as many writes, that may be under way at each service; one more gets 503
    #[arg(long, env = "EVENTBOARD_MAX_IN_FLIGHT", default_value_t = 256, value_parser = at_least_one)]
    pub max_in_flight: usize,
    /// Leave a worker alone for a while that fails again and again
    #[arg(long, env = "EVENTBOARD_BREAKERS", default_value_t = true, action = clap::ArgAction::Set)]
    pub breakers: bool,
    /// Requests of one user per second, and at once: <per second>:<burst>, or off
    #[arg(long, env = "EVENTBOARD_RATE_LIMIT_USER", default_value = "200:400")]
    pub rate_limit_user: RateLimit,
    /// Requests from one address per second, and at once: <per second>:<burst>, or off
    #[arg(long, env = "EVENTBOARD_RATE_LIMIT_IP", default_value = "400:800")]
    pub rate_limit_ip: RateLimit,
    /// Proxies of your own before the gateway, each of which adds to X-Forwarded-For whom it spoke to
    #[arg(long, env = "EVENTBOARD_TRUSTED_HOPS", default_value_t = 0)]
    pub trusted_hops: usize,
    /// Seconds between saying on /readyz that it stops, and closing the port
    #[arg(long, env = "EVENTBOARD_DRAIN_DELAY", default_value_t = 5)]
    pub drain_delay: u64,
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
