//! What is counted of the message path.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Statistics};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry_semantic_conventions::{attribute as key, metric};

use telemetry::metrics::{durations, meter};

struct Instruments {
    operations: Histogram<f64>,
    sent: Counter<u64>,
    consumed: Counter<u64>,
    processed: Histogram<f64>,
    waits: Histogram<f64>,
    stored: Histogram<f64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let count = |name, description| {
        meter().u64_counter(name).with_unit("{message}").with_description(description).build()
    };
    Instruments {
        operations: durations(metric::MESSAGING_CLIENT_OPERATION_DURATION, "From a request to its reply"),
        sent: count(metric::MESSAGING_CLIENT_SENT_MESSAGES, "Requests sent"),
        consumed: count(metric::MESSAGING_CLIENT_CONSUMED_MESSAGES, "Requests taken up by a worker"),
        processed: durations(metric::MESSAGING_PROCESS_DURATION, "From a message's arrival to its reply"),
        waits: durations(
            "eventboard.message.wait_time",
            "From a request's sending to its arrival in the worker",
        ),
        stored: durations(metric::DB_CLIENT_OPERATION_DURATION, "How long statements took"),
    }
});

fn labels(subject: &'static str, operation: &'static str, failure: Option<&'static str>) -> Vec<KeyValue> {
    let mut labels = vec![
        KeyValue::new(key::MESSAGING_SYSTEM, "nats"),
        KeyValue::new(key::MESSAGING_DESTINATION_NAME, subject),
        KeyValue::new(key::MESSAGING_OPERATION_NAME, operation),
    ];
    labels.extend(failure.map(|failure| KeyValue::new(key::ERROR_TYPE, failure)));
    labels
}

/// Counts a request that was sent, or could not be.
pub(super) fn requested(subject: &'static str, took: Duration, failure: Option<&'static str>) {
    let labels = labels(subject, "request", failure);
    INSTRUMENTS.operations.record(took.as_secs_f64(), &labels);
    INSTRUMENTS.sent.add(1, &labels);
}

/// Counts a message that was answered: how that ended, and why it failed if it did.
pub(super) fn processed(
    subject: &'static str,
    took: Duration,
    waited: Option<Duration>,
    outcome: &'static str,
    failure: Option<&'static str>,
) {
    let mut labels = labels(subject, "process", failure);
    labels.push(KeyValue::new("eventboard.outcome", outcome));
    INSTRUMENTS.processed.record(took.as_secs_f64(), &labels);
    INSTRUMENTS.consumed.add(1, &labels);
    if let Some(waited) = waited {
        let subject = [KeyValue::new(key::MESSAGING_DESTINATION_NAME, subject)];
        INSTRUMENTS.waits.record(waited.as_secs_f64(), &subject);
    }
}

/// Counts a request to a key-value bucket.
pub(super) fn stored(
    operation: &'static str,
    bucket: &'static str,
    took: Duration,
    failure: Option<&'static str>,
) {
    let mut labels = vec![
        KeyValue::new(key::DB_SYSTEM_NAME, "nats_kv"),
        KeyValue::new(key::DB_OPERATION_NAME, operation),
        KeyValue::new(key::DB_COLLECTION_NAME, bucket),
    ];
    labels.extend(failure.map(|failure| KeyValue::new(key::ERROR_TYPE, failure)));
    INSTRUMENTS.stored.record(took.as_secs_f64(), &labels);
}

/// Has the figures of this client's connection fetched with all others.
pub(super) fn observe_client(client: &Client, name: &str) {
    type Figure = fn(&Statistics) -> u64;
    let figures: [(&'static str, &'static str, Figure); 5] = [
        ("eventboard.nats.client.received.messages", "Messages received", |of| {
            of.in_messages.load(Ordering::Relaxed)
        }),
        ("eventboard.nats.client.sent.messages", "Messages sent", |of| {
            of.out_messages.load(Ordering::Relaxed)
        }),
        ("eventboard.nats.client.received.size", "Bytes received", |of| of.in_bytes.load(Ordering::Relaxed)),
        ("eventboard.nats.client.sent.size", "Bytes sent", |of| of.out_bytes.load(Ordering::Relaxed)),
        ("eventboard.nats.client.connects", "Connections made, the first one included", |of| {
            of.connects.load(Ordering::Relaxed)
        }),
    ];
    for (instrument, description, figure) in figures {
        let (statistics, labels) = (client.statistics(), [KeyValue::new("client", name.to_owned())]);
        let counter = meter().u64_observable_counter(instrument).with_description(description);
        let counter = counter.with_callback(move |observer| {
            observer.observe(figure(&statistics), &labels);
        });
        counter.build();
    }
}
