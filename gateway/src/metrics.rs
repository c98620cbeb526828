//! What the gateway counts. Labels are subjects, services and closed sets of words, never anything a client sends.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, ObservableGauge, UpDownCounter};
use opentelemetry_semantic_conventions::{attribute as key, metric};
use telemetry::metrics::{durations, meter};

use crate::resilience::breaker::State;

/// The gateway's instruments. Without a provider they do nothing.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    retries: Counter<u64>,
    rejections: Counter<u64>,
    transitions: Counter<u64>,
    _breakers: Arc<ObservableGauge<u64>>,
}

impl Metrics {
    /// `breakers` returns the state of each, whenever that is fetched.
    pub(crate) fn new(breakers: impl Fn() -> Vec<(&'static str, State)> + Send + Sync + 'static) -> Self {
        let gauge = meter()
            .u64_observable_gauge("eventboard.breaker.state")
            .with_description("Where the breaker of a subject stands: 0 closed, 1 half open, 2 open")
            .with_callback(move |observer| {
                for (subject, position) in breakers() {
                    let state = match position {
                        State::Closed => 0,
                        State::HalfOpen => 1,
                        State::Open => 2,
                    };
                    observer.observe(state, &[KeyValue::new("subject", subject)]);
                }
            });
        let this = Self {
            retries: meter()
                .u64_counter("eventboard.retries")
                .with_description("Messages that were sent again, by subject and reason")
                .build(),
            rejections: meter()
                .u64_counter("eventboard.rejections")
                .with_description("Requests that were not sent to a worker, by service and reason")
                .build(),
            transitions: meter()
                .u64_counter("eventboard.breaker.transitions")
                .with_description("Changes of a breaker's state, by subject and new state")
                .build(),
            _breakers: Arc::new(gauge.build()),
        };
        // Exported from the beginning, as zero: a missing metric looks like a mistake in the query.
        for counter in [&this.retries, &this.rejections, &this.transitions] {
            counter.add(0, &[]);
        }
        this
    }

    pub(crate) fn retried(&self, subject: &'static str, reason: &'static str) {
        self.retries.add(1, &[KeyValue::new("subject", subject), KeyValue::new("reason", reason)]);
    }

    pub(crate) fn rejected(&self, service: &'static str, reason: &'static str) {
        self.rejections.add(1, &[KeyValue::new("service", service), KeyValue::new("reason", reason)]);
    }

    pub(crate) fn moved(&self, subject: &'static str, to: State) {
        self.transitions.add(1, &[KeyValue::new("subject", subject), KeyValue::new("to", to.name())]);
    }
}

/// What is counted of HTTP.
struct Http {
    durations: Histogram<f64>,
    active: UpDownCounter<i64>,
}

static HTTP: LazyLock<Http> = LazyLock::new(|| Http {
    durations: durations(metric::HTTP_SERVER_REQUEST_DURATION, "From a request's head to its answer's head"),
    active: meter()
        .i64_up_down_counter(metric::HTTP_SERVER_ACTIVE_REQUESTS)
        .with_unit("{request}")
        .with_description("Requests that are not answered yet")
        .build(),
});

/// Counts a request that has begun; each is followed by [`http_request_ended`].
pub(crate) fn http_request_began(method: &'static str) {
    HTTP.active.add(1, &[KeyValue::new(key::HTTP_REQUEST_METHOD, method)]);
}

/// Counts a request that has ended; `route` is the template.
pub(crate) fn http_request_ended(method: &'static str, route: &str, status: u16, took: Duration) {
    HTTP.active.add(-1, &[KeyValue::new(key::HTTP_REQUEST_METHOD, method)]);
    let mut labels = vec![
        KeyValue::new(key::HTTP_REQUEST_METHOD, method),
        KeyValue::new(key::HTTP_ROUTE, route.to_owned()),
        KeyValue::new(key::HTTP_RESPONSE_STATUS_CODE, i64::from(status)),
    ];
    if status >= 500 {
        labels.push(KeyValue::new(key::ERROR_TYPE, status.to_string()));
    }
    HTTP.durations.record(took.as_secs_f64(), &labels);
}
