//! What the gateway sees of what it depends on.

use serde_json::from_str;
use shared::contract::{Timestamp, auth, events};
use shared::health::{Check, DEPENDENCY_TIMEOUT, Health, Status};
use shared::messaging::{Caller, watch_jetstream};

use crate::resilience::breaker::Position;
use crate::upstream::Upstream;

/// What a worker tells of its database when it is asked whether it is there.
const DATABASE: &str = "database";

/// Looks at every dependency but the broker, again and again.
pub(crate) async fn watch_dependencies(caller: &Caller, upstream: &Upstream, health: &Health) -> ! {
    let (never, ..) = tokio::join!(
        watch_jetstream(caller, health),
        watch_worker(caller, health, auth::SERVICE, auth::WORKER, "auth-database"),
        watch_worker(caller, health, events::SERVICE, events::WORKER, "events-database"),
        health.watch("breakers", || async move {
            let tripped = upstream.tripped();
            let named: Vec<_> =
                tripped.iter().map(|(subject, at)| format!("{subject} is {}", at.name())).collect();
            let open = tripped.iter().any(|(_, at)| *at == Position::Open);
            let named = (!named.is_empty()).then(|| named.join(", "));
            // Half open for want of requests is no failure.
            if open { Err(named.unwrap_or_default()) } else { Ok(named) }
        }),
    );
    never
}

/// Asks the workers of a service whether one is there, and takes over what it says of its database.
async fn watch_worker(caller: &Caller, health: &Health, service: &str, worker: &str, database: &str) -> ! {
    let look = || async move {
        let pong = caller.ping(service, DEPENDENCY_TIMEOUT).await;
        let told = pong.as_ref().ok().and_then(|pong| from_str(pong.metadata.get(DATABASE)?).ok());
        let unknown = || Check {
            status: Status::Fail,
            latency_ms: None,
            observed_at: Timestamp::now(),
            detail: Some(format!("no {worker} tells")),
        };
        health.set(database, told.unwrap_or_else(unknown));
        pong.map(|_| None)
    };
    health.watch(worker, look).await
}
