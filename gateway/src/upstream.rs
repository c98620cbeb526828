//! Has requests carried out by workers: with a place for each, a breaker before it, and another attempt where
//! that is safe and may help.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use contract::{Description, KeyOrigin, Problem, ProblemType, Repeat, SERVICES, descriptions};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use messaging::{Call, CallError, RECONNECT_GRACE, Reply, RequestClient};
use rand::RngExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::resilience::breaker::{Breaker, Permit, Signal, State};
use crate::resilience::classify::Classification;
use crate::resilience::retry::{self, ATTEMPTS, RetryBudget, delay};

/// How long workers take to be back after their broker is lost, about: before another attempt where nobody
/// listens; twice as long before the one after it.
const RETURN_TIME: Duration = Duration::from_millis(200);

/// Before the next attempt where an earlier one of the same call is still at it.
const OWN_KEY_DELAY: Duration = Duration::from_secs(1);

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

/// One subject's breaker.
#[derive(Debug)]
struct Gate {
    subject: &'static str,
    /// Whether it does anything.
    armed: bool,
    breaker: Mutex<Breaker>,
}

/// How an attempt ended.
enum Attempt {
    /// It was made, and this came of it.
    Made(Classification, Result<Reply, CallError>),
    /// It was not: the breaker is open for this long.
    Rejected(Duration),
    /// It was not: the broker has been away for too long.
    Away,
}

impl Upstream {
    /// Reaches the workers through `client`. Of each service, as many reads and as many writes may be under
    /// way at once. Without `breakers`, whoever fails is asked all the same.
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
            watched.values().map(|gate| (gate.subject, gate.breaker().state(now))).collect()
        });
        Self { client, services: SERVICES.map(|of| service(of.name)), gates, metrics }
    }

    /// The subjects whose breakers are not closed, with where they stand.
    pub(crate) fn tripped(&self) -> Vec<(&'static str, State)> {
        let now = Instant::now();
        let positions = self.gates.values().map(|gate| (gate.subject, gate.breaker().state(now)));
        positions.filter(|(_, position)| *position != State::Closed).collect()
    }

    /// Counts requests that were refused before they came here.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Has one request carried out, or says why not: the problem to answer with, when no worker has answered. Says
    /// too how often it was sent. Dropping this gives everything up that is under way.
    pub(crate) async fn call(
        &self,
        operation: &Description,
        call: &Call,
        payload: Bytes,
    ) -> (Result<Reply, Problem>, u32) {
        let (Some(service), Some(gate)) = (
            self.services.iter().find(|service| operation.service() == service.name),
            self.gates.get(operation.subject),
        ) else {
            return (Err(Problem::internal(&format_args!("{} is no operation", operation.subject))), 0);
        };
        let Some(_place) = service.place(operation.repeat) else {
            self.metrics.rejected(service.name, "in_flight");
            let why = "as many requests as may be are under way";
            let full = Problem::new(ProblemType::Overloaded, why).with_retry_after(Duration::from_secs(1));
            return (Err(full), 0);
        };
        let (outcome, made) = self.attempts(service, gate, operation, call, payload).await;
        let outcome = outcome.map(|mut reply| {
            let minted =
                call.idempotency_key.as_ref().is_some_and(|(_, origin)| *origin == KeyOrigin::Gateway);
            let own = made > 1 && reply.first.as_deref() == Some(call.correlation_id.as_str());
            if minted || own {
                // Repeated by the gateway, not by the client: for the client this is the first answer.
                reply.first = None;
            }
            reply
        });
        (outcome, made)
    }

    /// Sends the request, and again where that is safe and may help. Says what came of it, and how often it
    /// was sent.
    async fn attempts(
        &self,
        service: &Service,
        gate: &Gate,
        operation: &Description,
        call: &Call,
        payload: Bytes,
    ) -> (Result<Reply, Problem>, u32) {
        service.budget().count_request(Instant::now());
        // Before the first, so that no attempt is made beside another that waits for the same.
        if !self.has_link(call.deadline).await {
            return (Err(CallError::NotConnected.into_problem(operation.repeat)), 0);
        }
        let hedge_after = match operation.repeat {
            Repeat::Safe | Repeat::WithKey => {
                retry::hedge_after(call.deadline.saturating_duration_since(Instant::now()))
            }
            // Once it was delivered, it is not repeated.
            Repeat::ByClient | Repeat::Never => Duration::MAX,
        };
        let mut under_way = FuturesUnordered::new();
        let (mut made, mut next) = (0, Some(Instant::now()));
        // Why it would be sent again: for want of an answer, unless an attempt says otherwise.
        let mut reason = Classification::TimedOut;
        let (mut outcome, mut is_unknown) = (None, false);
        while !under_way.is_empty() || next.is_some() {
            tokio::select! {
                biased;
                Some(attempt) = under_way.next() => match attempt {
                    Attempt::Rejected(wait) => {
                        self.metrics.rejected(service.name, "breaker");
                        outcome.get_or_insert_with(|| Err(not_asked(wait)));
                        next = None;
                    }
                    Attempt::Away => {
                        let away = || Err(CallError::NotConnected.into_problem(operation.repeat));
                        outcome.get_or_insert_with(away);
                        next = None;
                    }
                    // The one who is at it is another attempt of this same call.
                    Attempt::Made(Classification::KeyInProgress, _) if !under_way.is_empty() => {}
                    Attempt::Made(Classification::KeyInProgress, _) if is_unknown => {
                        let again = Instant::now() + OWN_KEY_DELAY;
                        next = (made < ATTEMPTS && again < call.deadline).then_some(again);
                    }
                    Attempt::Made(class, result) => {
                        reason = class;
                        next = self.next_attempt(service, operation, call, made, class, &result);
                        if result.is_ok() {
                            *service.answered() = Some(Instant::now());
                        }
                        // What an earlier attempt may have done, a later one that did nothing has not undone.
                        if class.is_answer() || !is_unknown {
                            outcome = Some(result.map_err(|error| {
                                tracing::warn!(%error, subject = operation.subject, "no answer from the worker");
                                error.into_problem(operation.repeat)
                            }));
                        }
                        is_unknown |= class.leaves_unknown();
                        if class.is_answer() {
                            break;
                        }
                    }
                },
                () = until(next) => {
                    next = None;
                    if made == 0 || self.may_repeat(service, operation, made, reason) {
                        made += 1;
                        under_way.push(self.attempt(gate, operation, call, made, payload.clone()));
                        next = (made < ATTEMPTS).then(|| Instant::now().checked_add(hedge_after)).flatten();
                    }
                }
            }
        }
        // Every attempt ends with an outcome, and one was made.
        (outcome.unwrap_or_else(|| Err(CallError::TimedOut.into_problem(operation.repeat))), made)
    }

    /// Whether the broker can be reached; waits for one that was lost a moment ago. Nothing is sent meanwhile.
    async fn has_link(&self, deadline: Instant) -> bool {
        let back = self.client.connection().is_back();
        tokio::time::timeout_at(deadline, back).await.unwrap_or(false)
    }

    /// Whether the workers of a service, of whom none listens, did a moment ago, or may not have followed us to
    /// another broker yet. Whoever has been away for longer is not waited for.
    fn was_there(&self, service: &Service) -> bool {
        self.client.connection().is_fresh()
            || service.answered().is_some_and(|answered| answered.elapsed() < RECONNECT_GRACE)
    }

    /// When to send the request again after an attempt that ended like this; `None` when that would not help.
    fn next_attempt(
        &self,
        service: &Service,
        operation: &Description,
        call: &Call,
        made: u32,
        class: Classification,
        result: &Result<Reply, CallError>,
    ) -> Option<Instant> {
        if made == ATTEMPTS || !class.may_repeat(operation.repeat) {
            return None;
        }
        let wait = match (class, result) {
            (Classification::NoResponders, _) if !self.was_there(service) => return None,
            (Classification::NoResponders, _) => RETURN_TIME * made,
            (_, Ok(Reply { retry_after: Some(seconds), .. })) => {
                delay(made, &mut rand::rng()).max(Duration::from_secs(*seconds))
            }
            _ => delay(made, &mut rand::rng()),
        };
        Some(Instant::now() + wait).filter(|next| *next < call.deadline)
    }

    /// Takes a repetition out of the budget, and says so.
    fn may_repeat(
        &self,
        service: &Service,
        operation: &Description,
        made: u32,
        reason: Classification,
    ) -> bool {
        let granted = service.budget().take(Instant::now());
        if granted {
            let reason = reason.name();
            self.metrics.retried(operation.subject, reason);
            tracing::info!(subject = operation.subject, attempt = made + 1, reason, "sent again");
        }
        granted
    }

    async fn attempt(
        &self,
        gate: &Gate,
        operation: &Description,
        call: &Call,
        number: u32,
        payload: Bytes,
    ) -> Attempt {
        if !self.has_link(call.deadline).await {
            return Attempt::Away;
        }
        let mut guard = match gate.admit(&self.metrics) {
            Ok(guard) => guard,
            Err(wait) => return Attempt::Rejected(wait),
        };
        let mut calling = std::pin::pin!(self.client.call(operation, call, number, payload));
        let slow_after = retry::slow_after(operation.deadline, operation.repeat);
        let result = match tokio::time::timeout(slow_after, &mut calling).await {
            Ok(result) => result,
            Err(_) => {
                guard.record(Some(Signal::Failure));
                calling.await
            }
        };
        let class = Classification::of(&result);
        guard.record(class.signal());
        Attempt::Made(class, result)
    }
}

fn not_asked(wait: Duration) -> Problem {
    let why = "the worker has failed again and again, and is left alone for a while";
    Problem::new(ProblemType::Unavailable, why).with_retry_after(wait)
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl Service {
    fn place(&self, repeat: Repeat) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let places = if repeat == Repeat::Safe { &self.reads } else { &self.writes };
        places.try_acquire().ok()
    }

    /// No code panics while it holds the lock; should one ever, the budget is still whole.
    fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No code panics while it holds the lock; should one ever, the moment is still whole.
    fn answered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    fn new(subject: &'static str, armed: bool) -> Self {
        Self { subject, armed, breaker: Mutex::new(Breaker::new(Instant::now())) }
    }

    fn admit<'a>(&'a self, metrics: &'a Metrics) -> Result<BreakerGuard<'a>, Duration> {
        let permit = if self.armed { Some(self.change(metrics, Breaker::admit)?) } else { None };
        Ok(BreakerGuard { gate: self, metrics, permit })
    }

    /// Does something to the breaker, and says so when that moves it.
    fn change<T>(&self, metrics: &Metrics, change: impl FnOnce(&mut Breaker, Instant) -> T) -> T {
        let mut breaker = self.breaker();
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

    /// No code panics while it holds the lock; should one ever, the breaker is still whole.
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that a breaker let through. Dropped before it has ended, it says nothing, and frees its place.
struct BreakerGuard<'a> {
    gate: &'a Gate,
    metrics: &'a Metrics,
    permit: Option<Permit>,
}

impl BreakerGuard<'_> {
    /// Says once how the call ended.
    fn record(&mut self, signal: Option<Signal>) {
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
