//! One request, sent until there is an answer: again where that is safe and may help.

use std::time::Duration;

use bytes::Bytes;
use contract::{Description, Problem, ProblemType, Repeat};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use messaging::{Call, CallError, RECONNECT_GRACE, Reply};
use tokio::time::Instant;

use super::gate::Gate;
use super::{Exchange, Service, Upstream};
use crate::resilience::breaker::Signal;
use crate::resilience::classify::Classification;
use crate::resilience::retry::{self, ATTEMPTS, delay};

/// How long workers take to be back after their broker is lost, about: before another attempt where no worker
/// listens; twice as long before the one after it.
const RETURN_TIME: Duration = Duration::from_millis(200);

/// Before the next attempt where an earlier one of the same call is still at it.
const OWN_KEY_DELAY: Duration = Duration::from_secs(1);

/// What is to be carried out, and by whom.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) service: &'a Service,
    pub(super) gate: &'a Gate,
    pub(super) operation: &'a Description,
    pub(super) call: &'a Call,
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

/// The attempts at one request.
pub(super) struct Attempts<'a> {
    target: Target<'a>,
    payload: Bytes,
    /// How many were made.
    made: u32,
    /// When the next one is made.
    next: Option<Instant>,
    /// Why it would be made: for want of an answer, unless an attempt says otherwise.
    reason: Classification,
    /// What the caller gets, as things stand.
    outcome: Option<Result<Reply, Problem>>,
    /// Whether an attempt may have been carried out, and that is unknown.
    is_unknown: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(target: Target<'a>, payload: Bytes) -> Self {
        Self {
            target,
            payload,
            made: 0,
            next: Some(Instant::now()),
            reason: Classification::TimedOut,
            outcome: None,
            is_unknown: false,
        }
    }

    /// Makes them, until there is an answer or nothing more to try.
    pub(super) async fn run(mut self) -> Exchange {
        let Target { upstream, service, operation, call, .. } = self.target;
        service.budget.lock().count_request(Instant::now());
        // Before the first, so that no attempt is made beside another that waits for the same.
        if !upstream.has_link(call.deadline).await {
            return Exchange { reply: Err(self.not_connected()), attempts: 0 };
        }
        let hedge_after = match operation.repeat {
            Repeat::Safe | Repeat::WithKey => {
                retry::hedge_after(call.deadline.saturating_duration_since(Instant::now()))
            }
            // Once it was delivered, it is not repeated.
            Repeat::ByClient | Repeat::Never => Duration::MAX,
        };
        let mut under_way = FuturesUnordered::new();
        while !under_way.is_empty() || self.next.is_some() {
            tokio::select! {
                biased;
                Some(attempt) = under_way.next() => {
                    if self.judge(attempt, !under_way.is_empty()) {
                        break;
                    }
                }
                () = until(self.next) => {
                    self.next = None;
                    if self.may_make_another() {
                        self.made += 1;
                        under_way.push(self.target.attempt(self.made, self.payload.clone()));
                        self.next = Instant::now().checked_add(hedge_after).filter(|_| self.made < ATTEMPTS);
                    }
                }
            }
        }
        // Every attempt ends with an outcome, and one was made.
        let reply = self.outcome.unwrap_or_else(|| Err(CallError::TimedOut.into_problem(operation.repeat)));
        Exchange { reply, attempts: self.made }
    }

    /// Says what follows from an attempt that has ended, perhaps while `others` are under way. `true` when no other
    /// could say more.
    fn judge(&mut self, attempt: Attempt, others: bool) -> bool {
        match attempt {
            Attempt::Rejected(wait) => {
                self.target.upstream.metrics.rejected(self.target.service.name, "breaker");
                self.outcome.get_or_insert_with(|| Err(not_asked(wait)));
                self.next = None;
                false
            }
            Attempt::Away => {
                let away = self.not_connected();
                self.outcome.get_or_insert(Err(away));
                self.next = None;
                false
            }
            // The request under way with this key is another attempt of this same call.
            Attempt::Made(Classification::KeyInProgress, _) if others => false,
            Attempt::Made(Classification::KeyInProgress, _) if self.is_unknown => {
                let again = Instant::now() + OWN_KEY_DELAY;
                self.next = (self.made < ATTEMPTS && again < self.target.call.deadline).then_some(again);
                false
            }
            Attempt::Made(class, result) => self.judge_made(class, result),
        }
    }

    fn judge_made(&mut self, class: Classification, result: Result<Reply, CallError>) -> bool {
        let Target { service, operation, .. } = self.target;
        self.reason = class;
        self.next = self.next_attempt(class, &result);
        if result.is_ok() {
            *service.answered.lock() = Some(Instant::now());
        }
        // What an earlier attempt may have done, a later one that did nothing has not undone.
        if class.is_answer() || !self.is_unknown {
            self.outcome = Some(result.map_err(|error| {
                tracing::warn!(%error, subject = operation.subject, "no answer from the worker");
                error.into_problem(operation.repeat)
            }));
        }
        self.is_unknown |= class.leaves_unknown();
        class.is_answer()
    }

    /// When to send the request again after an attempt that ended like this; `None` when that would not help.
    fn next_attempt(&self, class: Classification, result: &Result<Reply, CallError>) -> Option<Instant> {
        let Target { upstream, service, operation, call, .. } = self.target;
        let made = self.made;
        if made == ATTEMPTS || !class.may_repeat(operation.repeat) {
            return None;
        }
        let wait = match (class, result) {
            (Classification::NoResponders, _) if !upstream.was_there(service) => return None,
            (Classification::NoResponders, _) => RETURN_TIME * made,
            (_, Ok(Reply { retry_after: Some(seconds), .. })) => {
                delay(made, &mut rand::rng()).max(Duration::from_secs(*seconds))
            }
            _ => delay(made, &mut rand::rng()),
        };
        Some(Instant::now() + wait).filter(|next| *next < call.deadline)
    }

    /// Whether one more may be made: the first always, another when the retry budget has it.
    fn may_make_another(&self) -> bool {
        let Target { upstream, service, operation, .. } = self.target;
        if self.made == 0 {
            return true;
        }
        let granted = service.budget.lock().take(Instant::now());
        if granted {
            let (reason, attempt) = (self.reason.name(), self.made + 1);
            upstream.metrics.retried(operation.subject, reason);
            tracing::info!(subject = operation.subject, attempt, reason, "sent again");
        }
        granted
    }

    fn not_connected(&self) -> Problem {
        CallError::NotConnected.into_problem(self.target.operation.repeat)
    }
}

impl Target<'_> {
    async fn attempt(self, number: u32, payload: Bytes) -> Attempt {
        let Self { upstream, gate, operation, call, .. } = self;
        if !upstream.has_link(call.deadline).await {
            return Attempt::Away;
        }
        let mut guard = match gate.admit(&upstream.metrics) {
            Ok(guard) => guard,
            Err(wait) => return Attempt::Rejected(wait),
        };
        let mut calling = std::pin::pin!(upstream.client.call(operation, call, number, payload));
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

impl Upstream {
    /// Whether the broker can be reached; waits for one that was lost a moment ago. Nothing is sent meanwhile.
    async fn has_link(&self, deadline: Instant) -> bool {
        let back = self.client.connection().is_back();
        tokio::time::timeout_at(deadline, back).await.unwrap_or(false)
    }

    /// Whether the workers of a service, of whom none listens, did a moment ago, or may not have followed us to
    /// another broker yet. A worker that has been away for longer is not waited for.
    fn was_there(&self, service: &Service) -> bool {
        self.client.connection().is_fresh()
            || service.answered.lock().is_some_and(|answered| answered.elapsed() < RECONNECT_GRACE)
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
