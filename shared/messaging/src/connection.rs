//! One connection to the broker, and what is known about it at any moment.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event};
use rand::RngExt;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::Instant;

use super::metrics;
use crate::settings::NatsSettings;

/// Messages a subscription may hold before the library drops them; far above every in-flight limit.
const SUBSCRIPTION_CAPACITY: usize = 4096;
/// How long the last bytes may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A link that has been down for less than this is waited for: a broker restarts, or another one of its cluster
/// takes over. One that has been down for longer is away.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(1);
/// How long the library may take to take a command.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks at a connection that is being put to use.
const SETTLING: Duration = Duration::from_millis(1);
/// The longest wait between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// A connection that reconnects by itself. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Connection {
    client: Client,
    losses: watch::Receiver<u64>,
    link: watch::Receiver<Link>,
}

/// Whether the link is up, and since when.
#[derive(Debug, Clone, Copy)]
struct Link {
    up: bool,
    since: Instant,
}

impl Link {
    fn is_up(&self) -> bool {
        self.up
    }

    fn changed_lately(&self) -> bool {
        self.since.elapsed() < RECONNECT_GRACE
    }
}

/// Why no connection could be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The credentials file cannot be read or used.
    #[error("the NATS credentials file cannot be used: {0}")]
    Credentials(#[source] std::io::Error),
    /// The broker refused the connection for good, or an address is malformed.
    #[error("cannot connect to NATS: {0}")]
    Refused(#[from] async_nats::ConnectError),
}

impl Connection {
    /// Connects as `name`, and waits for a broker that is not up yet.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn open(settings: &NatsSettings, name: &str) -> Result<Self, ConnectError> {
        let mut connection = Self::begin(settings, name).await?;
        // Fails only when the callback is gone, and the client holds it.
        let _ = connection.link.wait_for(Link::is_up).await;
        Ok(connection)
    }

    /// Begins to connect as `name`, which also names the private inbox prefix `_INBOX_<name>`. Goes on in the
    /// background for as long as it takes.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn begin(settings: &NatsSettings, name: &str) -> Result<Self, ConnectError> {
        let (lost, losses) = watch::channel(0);
        let (changes, link) = watch::channel(Link { up: false, since: Instant::now() });
        let mut options = ConnectOptions::new()
            .name(format!("eventboard-{name}"))
            .custom_inbox_prefix(format!("_INBOX_{name}"))
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .ping_interval(Duration::from_secs(10))
            .connection_timeout(Duration::from_secs(5))
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                observe(&event, &lost, &changes);
                std::future::ready(())
            });
        if let (Some(user), Some(password)) = (&settings.user, settings.password()) {
            options = options.user_and_password(user.clone(), password.expose_secret().to_owned());
        }
        if let Some(path) = &settings.creds {
            options = options.credentials_file(path).await.map_err(ConnectError::Credentials)?;
        }
        if let Some(path) = &settings.ca {
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&settings.cert, &settings.key) {
            options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        let client = options.connect(settings.urls().collect::<Vec<_>>()).await?;
        metrics::observe_client(&client, name);
        Ok(Self { client, losses, link })
    }

    /// Whether the link is up, or has been down for less than [`RECONNECT_GRACE`].
    pub fn is_usable(&self) -> bool {
        let link = *self.link.borrow();
        self.is_connected() || (!link.up && link.changed_lately())
    }

    /// Whether the link was made a moment ago: others may not have come to this broker yet.
    pub fn is_fresh(&self) -> bool {
        self.link.borrow().changed_lately()
    }

    /// Waits for a link that has been down for less than [`RECONNECT_GRACE`]; says whether there is one.
    pub async fn is_back(&self) -> bool {
        let mut changes = self.link.clone();
        let link = *changes.borrow();
        if link.up || self.is_connected() {
            return true;
        }
        let up = async {
            let is_up = changes.wait_for(Link::is_up).await.is_ok();
            // The library reports a connection just before it uses it.
            while is_up && !self.is_connected() {
                tokio::time::sleep(SETTLING).await;
            }
            is_up
        };
        tokio::time::timeout_at(link.since + RECONNECT_GRACE, up).await.unwrap_or(false)
    }

    /// Gives the link up and makes a new one; `false` when the client is gone.
    pub(super) async fn reconnect(&self) -> bool {
        // The library takes no command while it cannot write.
        let asked = tokio::time::timeout(RECONNECT_TIMEOUT, self.client.force_reconnect()).await;
        asked.is_ok_and(|asked| asked.is_ok())
    }

    /// Whether the link is up now. `true` is no promise: a link can break without a sound.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The library's client, for this module's siblings only.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Counts how often the link was lost; changes the moment it is.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.clone()
    }

    /// Sends what is buffered, and closes the connection once it is sent. A broker that is gone is not
    /// waited for: while the library reconnects it answers no command at all.
    pub async fn close(self) {
        if !self.is_connected() {
            return;
        }
        let send_and_close = async {
            let flushed = self.client.flush().await.map_err(|error| error.to_string());
            let drained = self.client.drain().await.map_err(|error| error.to_string());
            flushed.and(drained)
        };
        match tokio::time::timeout(CLOSE_TIMEOUT, send_and_close).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not close the NATS connection in order"),
            Err(_) => tracing::warn!("the NATS connection did not close in time"),
        }
    }
}

/// Half fixed, half random: a restarted broker is not met by every client at the same moment.
fn reconnect_delay(attempt: usize) -> Duration {
    if attempt <= 1 {
        return Duration::from_millis(rand::rng().random_range(0..20));
    }
    let exponent = u32::try_from(attempt.min(8)).unwrap_or(8);
    let ceiling = Duration::from_millis(10).saturating_mul(2_u32.pow(exponent)).min(MAX_RECONNECT_DELAY);
    ceiling / 2 + ceiling.mul_f64(rand::rng().random_range(0.0..0.5))
}

/// Runs on the connection's own task, so it never waits.
fn observe(event: &Event, lost: &watch::Sender<u64>, link: &watch::Sender<Link>) {
    let since = Instant::now();
    match event {
        Event::Connected => {
            link.send_replace(Link { up: true, since });
            tracing::info!("connected to NATS");
        }
        Event::Disconnected => {
            link.send_replace(Link { up: false, since });
            lost.send_modify(|losses| *losses += 1);
            tracing::warn!("lost the connection to NATS");
        }
        Event::SlowConsumer(subscription) => {
            tracing::error!(subscription, "a subscription overflowed; messages were dropped");
        }
        Event::ServerError(error) => tracing::error!(%error, "NATS refused something"),
        Event::ClientError(error) => tracing::error!(%error, "NATS connection error"),
        Event::LameDuckMode | Event::Draining | Event::Closed => tracing::info!(%event, "NATS connection"),
    }
}
