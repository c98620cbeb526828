//! Notices a connection that is dead without saying so, by messages to oneself.

use std::time::Duration;

use tokio::time::Instant;

use super::{CallError, Caller};
use crate::health::Health;

/// Between two messages to oneself.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// After so many in a row have been lost, the link is made anew; after as many more, it is dead. Together
/// with the timeouts that is under ten seconds.
const PATIENCE: u32 = 3;

/// The connection says that it is up and carries nothing, also after it was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection to NATS is up but carries no messages; this process must be restarted")]
pub struct ConnectionDead;

/// Keeps the check `broker` of `health` up to date. Returns once the connection is dead. A broker that is
/// away is waited for: the library reconnects by itself.
pub async fn watch_broker(caller: &Caller, health: &Health) -> ConnectionDead {
    let mut lost = 0;
    loop {
        let begun = Instant::now();
        let echoed = caller.echo(TIMEOUT).await;
        health.observe(
            "broker",
            begun.elapsed(),
            echoed.as_ref().map(|()| None).map_err(ToString::to_string),
        );
        lost = match echoed {
            Err(CallError::TimedOut) => lost + 1,
            _ => 0,
        };
        if lost == PATIENCE {
            tracing::warn!("the connection to NATS carries no messages; making a new one");
            if !caller.connection().reconnect().await {
                return ConnectionDead;
            }
        }
        if lost == 2 * PATIENCE {
            return ConnectionDead;
        }
        tokio::time::sleep_until(begun + INTERVAL).await;
    }
}
