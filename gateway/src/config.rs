//! The gateway's settings: one argument and one variable each.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use clap::Args;
use messaging::NatsSettings;
use settings::{Environment, Refused, SettingsCheck, listed};
use url::{Host, Url};

use crate::rate_limit::RateLimit;

/// The usual admin port.
pub const ADMIN_PORT: u16 = 9100;

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}

/// Where browsers may call from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Anywhere.
    Any,
    /// These origins, as browsers send them (RFC 6454 §6.2).
    Listed(Vec<String>),
}

/// Text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin; expected for example https://app.example.com, several separated by commas, or *"
)]
pub struct NotAnOrigin(String);

impl FromStr for CorsOrigins {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        if listed(text).any(|part| part == "*") {
            return Ok(Self::Any);
        }
        let origins: Vec<String> = listed(text).map(origin).collect::<Result<_, _>>()?;
        if origins.is_empty() { Err(NotAnOrigin(text.to_owned())) } else { Ok(Self::Listed(origins)) }
    }
}

/// An origin as browsers send it: in lower case, without its scheme's usual port and without a slash at its end.
fn origin(text: &str) -> Result<String, NotAnOrigin> {
    let refused = || NotAnOrigin(text.to_owned());
    let url = Url::parse(text).map_err(|_| refused())?;
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none();
    let host = url.host().filter(|_| is_bare).ok_or_else(refused)?;
    // Of schemes that the URL standard does not know, it leaves the host as it is written.
    let host = if let Host::Domain(domain) = host { domain.to_ascii_lowercase() } else { host.to_string() };
    // An asterisk within a host is no pattern to a browser.
    if host.is_empty() || host.contains('*') {
        return Err(refused());
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{}://{host}{port}", url.scheme()))
}

/// The gateway's settings.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address the API is served on
    #[arg(long, env = "EVENTBOARD_HTTP", default_value = "127.0.0.1:3000")]
    pub http: SocketAddr,
    /// Address of /livez, /readyz, /health and /metrics for operators
    #[arg(long, env = "EVENTBOARD_ADMIN", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)))]
    pub admin: SocketAddr,
    /// How to reach the broker.
    #[command(flatten)]
    pub nats: NatsSettings,
    /// Origins that browsers may call from, separated by commas; * allows all
    #[arg(long, env = "EVENTBOARD_CORS_ORIGINS", default_value = "*")]
    pub cors_origins: CorsOrigins,
    /// Seconds a client may take to send a request's head
    #[arg(long, env = "EVENTBOARD_HEADER_TIMEOUT", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub header_timeout: u64,
    /// Seconds a connection is kept between two requests: longer than the load balancer in front keeps it
    #[arg(long, env = "EVENTBOARD_IDLE_TIMEOUT", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub idle_timeout: u64,
    /// Connections at once; one more closes the one whose client has kept the gateway waiting for longest
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
    /// Refuses settings that cannot be used, or are not fit for where the system runs.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self) -> Result<(), Refused> {
        let mut check = SettingsCheck::new(self.env);
        self.nats.check(&mut check);
        if self.cors_origins == CorsOrigins::Any {
            check.forbid("EVENTBOARD_CORS_ORIGINS", "is *: name the origins that may call from a browser");
        }
        check.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_send_them_or_refused() {
        let read = |text: &str| text.parse::<CorsOrigins>();
        let listed =
            |origins: &[&str]| Ok(CorsOrigins::Listed(origins.iter().map(|o| (*o).to_owned()).collect()));
        assert_eq!(read("*"), Ok(CorsOrigins::Any));
        assert_eq!(read("https://a.example, *"), Ok(CorsOrigins::Any));
        assert_eq!(
            read("https://a.example, https://b.example ,,"),
            listed(&["https://a.example", "https://b.example"])
        );
        for (written, sent) in [
            ("https://a.example/", "https://a.example"),
            ("HTTPS://A.Example", "https://a.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80/", "http://a.example"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("capacitor://LocalHost", "capacitor://localhost"),
        ] {
            assert_eq!(read(written), listed(&[sent]), "{written}");
        }
        for bad in [
            "",
            ",",
            "null",
            "a.example",
            "https://",
            "https://a.example/app",
            "https://u:p@a.example",
            "https://a.example?x",
            "https://a.example#x",
            "https://*.example",
            "mailto:a@example.com",
            "file:///",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
