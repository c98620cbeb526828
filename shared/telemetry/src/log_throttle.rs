//! Keeps an exporter without a collector from filling the log.

use std::collections::HashMap;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Metadata;
use tracing::callsite::Identifier;

/// OpenTelemetry speaks of its own failures under targets that begin so, once per batch.
const TARGETS: &str = "opentelemetry";
/// How often each of its messages is written at most.
const INTERVAL: Duration = Duration::from_secs(60);

/// Whether OpenTelemetry says it.
pub(super) fn is_of_telemetry(event: &Metadata<'_>) -> bool {
    event.target().starts_with(TARGETS)
}

/// Lets each message of OpenTelemetry's through once a minute, and everything else always.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    /// When each place in its code last spoke.
    written: Mutex<HashMap<Identifier, Instant>>,
}

impl LogThrottle {
    /// Whether an event with this metadata is written at `now`.
    pub(super) fn admits(&self, event: &Metadata<'_>, now: Instant) -> bool {
        if !is_of_telemetry(event) {
            return true;
        }
        let mut written = self.written.lock();
        match written.get(&event.callsite()) {
            Some(last) if now.duration_since(*last) < INTERVAL => false,
            _ => {
                written.insert(event.callsite(), now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Callsite;

    macro_rules! event {
        ($target:literal) => {
            tracing::callsite!(
                name: "event",
                kind: tracing::metadata::Kind::EVENT,
                target: $target,
                level: tracing::Level::WARN,
                fields: x
            )
                .metadata()
        };
    }

    #[test]
    fn each_message_of_the_exporter_is_written_once_a_minute() {
        let (limited, now) = (LogThrottle::default(), Instant::now());
        let (batch, request) = (event!("opentelemetry_sdk"), event!("opentelemetry-otlp"));
        assert!(limited.admits(batch, now) && limited.admits(request, now));
        assert!(!limited.admits(batch, now + INTERVAL / 2));
        assert!(!limited.admits(request, now + INTERVAL / 2));
        assert!(limited.admits(batch, now + INTERVAL));
        assert!(!limited.admits(batch, now + INTERVAL));
    }

    #[test]
    fn our_own_messages_are_always_written() {
        let (limited, now, ours) = (LogThrottle::default(), Instant::now(), event!("messaging"));
        assert!((0..100).all(|_| limited.admits(ours, now)));
    }
}
