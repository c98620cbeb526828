//! What is counted of passwords.

use std::sync::LazyLock;
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use telemetry::metrics::{durations, meter};
use telemetry::span;
use tracing::Span;

struct Instruments {
    tried: Counter<u64>,
    queued: UpDownCounter<i64>,
    waits: Histogram<f64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| Instruments {
    tried: meter()
        .u64_counter("eventboard.password.attempts")
        .with_description("Passwords that were tried or might not be, by what came of it")
        .build(),
    queued: meter()
        .i64_up_down_counter("eventboard.hasher.queue.length")
        .with_description("Passwords that wait for a hashing thread")
        .build(),
    waits: durations("eventboard.hasher.queue.wait_time", "How long passwords waited for a hashing thread"),
});

/// Counts a password that was tried, or refused before.
pub(crate) fn password_tried(outcome: &'static str) {
    INSTRUMENTS.tried.add(1, &[KeyValue::new("eventboard.outcome", outcome)]);
}

/// A password in the queue, until it is dropped.
pub(crate) struct Waiting {
    span: Span,
    begun: Instant,
}

impl Waiting {
    /// One that begins to wait, in a span of this name.
    pub(crate) fn begin(name: &'static str) -> Self {
        INSTRUMENTS.queued.add(1, &[]);
        Self { span: span::detached(name), begun: Instant::now() }
    }

    /// Its turn has come; returns the span of what is done now.
    pub(crate) fn end(self) -> Span {
        let wait = self.begun.elapsed();
        INSTRUMENTS.waits.record(wait.as_secs_f64(), &[]);
        span::queue_wait(&self.span, wait);
        self.span.clone()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        INSTRUMENTS.queued.add(-1, &[]);
    }
}
