//! What the gateway sees of what it depends on.

use contract::{SERVICES, Service, Timestamp};
use futures_util::future::join_all;
use messaging::{RequestClient, watch_jetstream};
use serde_json::from_str;
use telemetry::health::{Check, DEPENDENCY_TIMEOUT, Health, Status};

use crate::resilience::breaker::State;
use crate::upstream::Upstream;

/// The checks that a worker reports when it is asked whether it is there: its database, and its subjects.
const WORKER_CHECKS: [&str; 2] = ["database", "subjects"];

/// Looks at every dependency but the broker, again and again.
pub(crate) async fn watch_dependencies(client: &RequestClient, upstream: &Upstream, health: &Health) -> ! {
    let (never, ..) = tokio::join!(
        watch_jetstream(client, health),
        join_all(SERVICES.map(|service| watch_worker(client, health, service))),
        health.watch("replies", || async {
            let intruder =
                |stream| format!("the stream {stream} answers requests in the workers' place; remove it");
            client.intruder().map_or(Ok(None), |stream| Err(intruder(stream)))
        }),
        health.watch("breakers", || async move {
            let tripped = upstream.tripped();
            let named: Vec<_> =
                tripped.iter().map(|(subject, at)| format!("{subject} is {}", at.name())).collect();
            let open = tripped.iter().any(|(_, at)| *at == State::Open);
            let named = (!named.is_empty()).then(|| named.join(", "));
            // Half open for want of requests is no failure.
            if open { Err(named.unwrap_or_default()) } else { Ok(named) }
        }),
    );
    never
}

/// Asks the workers of a service whether one is there, and takes over what it says.
async fn watch_worker(client: &RequestClient, health: &Health, service: Service) -> ! {
    let Service { name: service, worker, .. } = service;
    let look = || async move {
        let pong = client.ping(service, DEPENDENCY_TIMEOUT).await;
        let unknown = || Check {
            status: Status::Fail,
            latency_ms: None,
            observed_at: Timestamp::now(),
            detail: Some(format!("no {worker} tells")),
        };
        for name in WORKER_CHECKS {
            let reported = pong.as_ref().ok().and_then(|pong| from_str(pong.metadata.get(name)?).ok());
            health.set(&format!("{service}-{name}"), reported.unwrap_or_else(unknown));
        }
        pong.map(|_| None)
    };
    health.watch(worker, look).await
}
