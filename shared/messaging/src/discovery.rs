//! How `nats service` finds a worker: the answers to `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS` (ADR-32).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use contract::{Description, Timestamp};
use telemetry::health::Health;

/// One running instance of a service, as others may ask about it.
#[derive(Debug)]
pub(super) struct Instance {
    service: &'static str,
    id: String,
    started: Timestamp,
    endpoints: Vec<Counts>,
    health: Health,
}

/// What an endpoint has done so far.
#[derive(Debug)]
struct Counts {
    description: Description,
    requests: AtomicU64,
    errors: AtomicU64,
    processing_nanos: AtomicU64,
    last_error: Mutex<String>,
}

#[derive(Serialize)]
struct Identity<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    id: &'a str,
    version: &'a str,
    metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Info<'a> {
    #[serde(flatten)]
    identity: Identity<'a>,
    description: String,
    endpoints: Vec<EndpointInfo<'a>>,
}

#[derive(Serialize)]
struct EndpointInfo<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'a str,
    metadata: HashMap<&'a str, String>,
}

#[derive(Serialize)]
struct Stats<'a> {
    #[serde(flatten)]
    identity: Identity<'a>,
    started: Timestamp,
    endpoints: Vec<EndpointStats<'a>>,
}

#[derive(Serialize)]
struct EndpointStats<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'a str,
    num_requests: u64,
    num_errors: u64,
    last_error: String,
    processing_time: u64,
    average_processing_time: u64,
}

impl Instance {
    /// A new instance of `service` that serves these operations, and reports its health.
    pub(super) fn new(
        service: &'static str,
        operations: impl Iterator<Item = Description>,
        health: Health,
    ) -> Self {
        let counts = |description| Counts {
            description,
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            processing_nanos: AtomicU64::new(0),
            last_error: Mutex::default(),
        };
        Self {
            service,
            id: Uuid::now_v7().simple().to_string(),
            started: Timestamp::now(),
            endpoints: operations.map(counts).collect(),
            health,
        }
    }

    /// Where it listens for questions: to every service, to those of its kind, to itself.
    pub(super) fn subjects(&self) -> [String; 3] {
        ["$SRV.*".to_owned(), format!("$SRV.*.{}", self.service), self.own_subject("*")]
    }

    /// Where a question goes that only this instance answers.
    pub(super) fn own_subject(&self, verb: &str) -> String {
        format!("$SRV.{verb}.{}.{}", self.service, self.id)
    }

    /// The answer to what was asked on `subject`; `None` to unknown questions.
    pub(super) fn answer(&self, subject: &str) -> Option<Vec<u8>> {
        let answer = match subject.split('.').nth(1)? {
            "PING" => serde_json::to_vec(&self.identity("io.nats.micro.v1.ping_response")),
            "INFO" => serde_json::to_vec(&self.info()),
            "STATS" => serde_json::to_vec(&self.stats()),
            _ => return None,
        };
        answer.inspect_err(|error| tracing::error!(%error, "cannot describe the service")).ok()
    }

    /// Counts one request to the endpoint at `index`. `error` is the failure's status and title.
    pub(super) fn count(&self, index: usize, processing: Duration, error: Option<String>) {
        let counts = &self.endpoints[index];
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(processing.as_nanos()).unwrap_or(u64::MAX);
        counts.processing_nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(error) = error {
            counts.errors.fetch_add(1, Ordering::Relaxed);
            *counts.last_error.lock() = error;
        }
    }

    fn identity(&self, kind: &'static str) -> Identity<'_> {
        Identity {
            kind,
            name: self.service,
            id: &self.id,
            version: env!("CARGO_PKG_VERSION"),
            // What this instance depends on, as its own /health reports it.
            metadata: self.checks(),
        }
    }

    fn checks(&self) -> BTreeMap<String, String> {
        let checks = self.health.report().checks.into_iter();
        checks.filter_map(|(name, check)| Some((name, serde_json::to_string(&check).ok()?))).collect()
    }

    fn info(&self) -> Info<'_> {
        let endpoints = self.endpoints.iter().map(|Counts { description, .. }| EndpointInfo {
            name: description.verb(),
            subject: description.subject,
            queue_group: self.service,
            metadata: HashMap::from([
                ("summary", description.summary.to_owned()),
                ("http", format!("{} {}", description.route.method.as_str(), description.route.path)),
            ]),
        });
        Info {
            identity: self.identity("io.nats.micro.v1.info_response"),
            description: format!("EventBoard {} worker", self.service),
            endpoints: endpoints.collect(),
        }
    }

    fn stats(&self) -> Stats<'_> {
        let endpoints = self.endpoints.iter().map(|counts| {
            let requests = counts.requests.load(Ordering::Relaxed);
            let processing_time = counts.processing_nanos.load(Ordering::Relaxed);
            EndpointStats {
                name: counts.description.verb(),
                subject: counts.description.subject,
                queue_group: self.service,
                num_requests: requests,
                num_errors: counts.errors.load(Ordering::Relaxed),
                last_error: counts.last_error.lock().clone(),
                processing_time,
                average_processing_time: processing_time.checked_div(requests).unwrap_or(0),
            }
        });
        Stats {
            identity: self.identity("io.nats.micro.v1.stats_response"),
            started: self.started,
            endpoints: endpoints.collect(),
        }
    }
}
