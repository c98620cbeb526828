//! What the gateway counts. Labels are subjects, services and closed sets of words, never anything a client sends.

use std::sync::Arc;

use opentelemetry::metrics::{Counter, ObservableGauge};
use opentelemetry::{KeyValue, global};

use crate::resilience::breaker::Position;

/// The gateway's instruments. Without a provider they do nothing.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    retries: Counter<u64>,
    rejections: Counter<u64>,
    transitions: Counter<u64>,
    _breakers: Arc<ObservableGauge<u64>>,
}

impl Metrics {
    /// `breakers` tells where each stands, whenever that is fetched.
    pub(crate) fn new(breakers: impl Fn() -> Vec<(&'static str, Position)> + Send + Sync + 'static) -> Self {
        let meter = global::meter("eventboard");
        let gauge = meter
            .u64_observable_gauge("eventboard.breaker.state")
            .with_description("Where the breaker of a subject stands: 0 closed, 1 half open, 2 open")
            .with_callback(move |observer| {
                for (subject, position) in breakers() {
                    let state = match position {
                        Position::Closed => 0,
                        Position::HalfOpen => 1,
                        Position::Open => 2,
                    };
                    observer.observe(state, &[KeyValue::new("subject", subject)]);
                }
            });
        Self {
            retries: meter
                .u64_counter("eventboard.retries")
                .with_description("Messages that were sent again, by subject and reason")
                .build(),
            rejections: meter
                .u64_counter("eventboard.rejections")
                .with_description("Requests that were not sent to a worker, by service and reason")
                .build(),
            transitions: meter
                .u64_counter("eventboard.breaker.transitions")
                .with_description("Changes of a breaker's state, by subject and new state")
                .build(),
            _breakers: Arc::new(gauge.build()),
        }
    }

    pub(crate) fn retried(&self, subject: &'static str, reason: &'static str) {
        self.retries.add(1, &[KeyValue::new("subject", subject), KeyValue::new("reason", reason)]);
    }

    pub(crate) fn rejected(&self, service: &'static str, reason: &'static str) {
        self.rejections.add(1, &[KeyValue::new("service", service), KeyValue::new("reason", reason)]);
    }

    pub(crate) fn moved(&self, subject: &'static str, to: Position) {
        self.transitions.add(1, &[KeyValue::new("subject", subject), KeyValue::new("to", to.name())]);
    }
}
