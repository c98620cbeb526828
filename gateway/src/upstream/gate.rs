//! A subject's breaker, and the calls that it lets through.

use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::resilience::breaker::{Breaker, Permit, Signal, State};

/// One subject's breaker.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) subject: &'static str,
    /// Whether it does anything.
    armed: bool,
    breaker: Mutex<Breaker>,
}

impl Gate {
    pub(super) fn new(subject: &'static str, armed: bool) -> Self {
        Self { subject, armed, breaker: Mutex::new(Breaker::new(Instant::now())) }
    }

    pub(super) fn admit<'a>(&'a self, metrics: &'a Metrics) -> Result<BreakerGuard<'a>, Duration> {
        let permit = if self.armed { Some(self.change(metrics, Breaker::admit)?) } else { None };
        Ok(BreakerGuard { gate: self, metrics, permit })
    }

    /// Does something to the breaker, and says so when that moves it.
    fn change<T>(&self, metrics: &Metrics, change: impl FnOnce(&mut Breaker, Instant) -> T) -> T {
        let mut breaker = self.breaker.lock();
        let now = Instant::now();
        let before = breaker.last_state();
        let result = change(&mut breaker, now);
        let after = breaker.last_state();
        drop(breaker);
        if before != after {
            metrics.moved(self.subject, after);
            match after {
                State::Open => tracing::warn!(subject = self.subject, "a breaker opened"),
                State::HalfOpen => tracing::info!(subject = self.subject, "a breaker is half open"),
                State::Closed => tracing::info!(subject = self.subject, "a breaker closed"),
            }
        }
        result
    }

    /// Where the breaker stands.
    pub(super) fn state(&self, now: Instant) -> State {
        self.breaker.lock().state(now)
    }
}

/// A call that a breaker let through. Dropped before it has ended, it says nothing, and frees its place.
pub(super) struct BreakerGuard<'a> {
    gate: &'a Gate,
    metrics: &'a Metrics,
    permit: Option<Permit>,
}

impl BreakerGuard<'_> {
    /// Says once how the call ended.
    pub(super) fn record(&mut self, signal: Option<Signal>) {
        let (Some(signal), true) = (signal, self.permit.is_some()) else { return };
        if let Some(permit) = self.permit.take() {
            let chance = rand::rng().random_range(0.0..1.0);
            self.gate.change(self.metrics, |breaker, now| breaker.record(&permit, signal, now, chance));
        }
    }
}

impl Drop for BreakerGuard<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.gate.change(self.metrics, |breaker, _| breaker.abandon(&permit));
        }
    }
}
