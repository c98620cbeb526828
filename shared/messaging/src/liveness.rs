//! Notices a connection that is dead without saying so, by messages to oneself.

use std::time::Duration;

use telemetry::health::{DEPENDENCY_TIMEOUT, Health};
use tokio::time::Instant;

use super::{CallError, RequestClient};

/// Between two messages to oneself.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same while there is no connection.
const INTERVAL_WHILE_AWAY: Duration = Duration::from_millis(100);
/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// After so many in a row have been lost, the link is made anew; after as many more, it is dead. Together
/// with the timeouts that is under ten seconds.
const PATIENCE: u32 = 3;

/// The connection says that it is up and carries nothing, also after it was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection to NATS is up but carries no messages; this process must be restarted")]
pub struct ConnectionDead;

/// Keeps the check `broker` of `health` up to date. Returns once the connection is dead, or can bring no reply
/// any more. A broker that is away is waited for: the library reconnects by itself.
pub async fn watch_broker(client: &RequestClient, health: &Health) -> ConnectionDead {
    tokio::select! {
        () = client.broken() => ConnectionDead,
        dead = watch_echoes(client, health) => dead,
    }
}

/// Keeps the check `jetstream` of `health` up to date.
pub async fn watch_jetstream(client: &RequestClient, health: &Health) -> ! {
    let look = || async move { client.ask_jetstream(DEPENDENCY_TIMEOUT).await.map(|()| None) };
    health.watch("jetstream", look).await
}

async fn watch_echoes(client: &RequestClient, health: &Health) -> ConnectionDead {
    // Messages lost in a row, and whether the link they were lost on is one that was made for that reason.
    let (mut lost, mut renewed) = (0, false);
    loop {
        let begun = Instant::now();
        let echoed = match client.echo(TIMEOUT).await {
            // A link that was lost a moment ago is waited for here as it is by requests.
            Err(CallError::NotConnected | CallError::ConnectionLost)
                if client.connection().is_back().await =>
            {
                client.echo(TIMEOUT).await
            }
            echoed => echoed,
        };
        health.observe(
            "broker",
            begun.elapsed(),
            echoed.as_ref().map(|()| None).map_err(ToString::to_string),
        );
        let pause = match echoed {
            Ok(()) => {
                (lost, renewed) = (0, false);
                INTERVAL
            }
            Err(CallError::TimedOut) => {
                lost += 1;
                INTERVAL
            }
            // While there is no connection, nothing is learned about it.
            Err(_) => {
                lost = 0;
                INTERVAL_WHILE_AWAY
            }
        };
        if lost == PATIENCE {
            tracing::warn!("the connection to NATS carries no messages");
            if renewed || !client.connection().reconnect().await {
                return ConnectionDead;
            }
            (lost, renewed) = (0, true);
        }
        tokio::time::sleep_until(begun + pause).await;
    }
}
