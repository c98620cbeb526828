//! Has requests carried out by workers: with a place for each, a breaker before it, and another attempt where
//! that is safe and may help.

mod attempts;
mod gate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::{Description, KeyOrigin, Problem, ProblemType, Repeat, SERVICES, descriptions};
use messaging::{Call, Reply, RequestClient};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::resilience::breaker::State;
use crate::resilience::retry::RetryBudget;

use attempts::{Attempts, Target};
use gate::Gate;

/// The workers, as the gateway reaches them.
#[derive(Debug)]
pub(crate) struct Upstream {
    client: RequestClient,
    services: [Service; SERVICES.len()],
    gates: Arc<BTreeMap<&'static str, Gate>>,
    metrics: Metrics,
}

/// What the operations of one service share.
#[derive(Debug)]
struct Service {
    name: &'static str,
    reads: Semaphore,
    writes: Semaphore,
    budget: Mutex<RetryBudget>,
    /// When it last answered.
    answered: Mutex<Option<Instant>>,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The worker's answer, or the problem to answer with when there is none.
    pub(crate) reply: Result<Reply, Problem>,
    /// How often it was sent.
    pub(crate) attempts: u32,
}

impl Upstream {
    /// Reaches the workers through `client`. Of each service, as many reads and as many writes may be under
    /// way at once. Without `breakers`, a failing worker is called all the same.
    pub(crate) fn new(client: RequestClient, max_in_flight: usize, breakers: bool) -> Self {
        let service = |name| Service {
            name,
            reads: Semaphore::new(max_in_flight),
            writes: Semaphore::new(max_in_flight),
            budget: Mutex::new(RetryBudget::new(Instant::now())),
            answered: Mutex::default(),
        };
        let subjects = descriptions().into_iter().map(|operation| operation.subject);
        let gates: Arc<BTreeMap<_, _>> =
            Arc::new(subjects.map(|subject| (subject, Gate::new(subject, breakers))).collect());
        let watched = Arc::clone(&gates);
        let metrics = Metrics::new(move || {
            let now = Instant::now();
            watched.values().map(|gate| (gate.subject, gate.state(now))).collect()
        });
        Self { client, services: SERVICES.map(|of| service(of.name)), gates, metrics }
    }

    /// The subjects whose breakers are not closed, with where they stand.
    pub(crate) fn tripped(&self) -> Vec<(&'static str, State)> {
        let now = Instant::now();
        let states = self.gates.values().map(|gate| (gate.subject, gate.state(now)));
        states.filter(|(_, state)| *state != State::Closed).collect()
    }

    /// Counts requests that were refused before they came here.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Has one request carried out, or says why not. Dropping this gives everything up that is under way.
    pub(crate) async fn call(&self, operation: &Description, call: &Call, payload: Bytes) -> Exchange {
        let not_sent = |problem| Exchange { reply: Err(problem), attempts: 0 };
        let (Some(service), Some(gate)) = (
            self.services.iter().find(|service| operation.service() == service.name),
            self.gates.get(operation.subject),
        ) else {
            return not_sent(Problem::internal(&format_args!("{} is no operation", operation.subject)));
        };
        let Some(_permit) = service.permit(operation.repeat) else {
            self.metrics.rejected(service.name, "in_flight");
            let why = "as many requests as may be are under way";
            return not_sent(
                Problem::new(ProblemType::Overloaded, why).with_retry_after(Duration::from_secs(1)),
            );
        };
        let target = Target { upstream: self, service, gate, operation, call };
        let mut exchange = Attempts::new(target, payload).run().await;
        if let Ok(reply) = &mut exchange.reply {
            let minted =
                call.idempotency_key.as_ref().is_some_and(|(_, origin)| *origin == KeyOrigin::Gateway);
            let own = exchange.attempts > 1 && reply.first.as_deref() == Some(call.correlation_id.as_str());
            if minted || own {
                // Repeated by the gateway, not by the client: for the client this is the first answer.
                reply.first = None;
            }
        }
        exchange
    }
}

impl Service {
    fn permit(&self, repeat: Repeat) -> Option<SemaphorePermit<'_>> {
        let requests = if repeat == Repeat::Safe { &self.reads } else { &self.writes };
        requests.try_acquire().ok()
    }
}
