//! One run per key at a time: a lease and a reply cache, shared by every worker through JetStream KV.
//!
//! The truth is the answer that is saved in the database, in the transaction of the effect. What is here may
//! be lost, stale or granted twice: that costs work, never a second effect.

mod record;

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use contract::{
    Answer, Context, Failure, IdempotentRequest, NoReplay, Outcome, Problem, ProblemType, SavedResponse,
    Timestamp,
};
use failpoint::{crash_point, fault_point};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rand::RngExt;
use telemetry::metrics::meter;
use telemetry::span;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use crate::key_value::{Entry, KeyValueError, KeyValueStore};

use record::{Record, State, lease_key};

/// How long a duplicate waits for the run that is under way.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// What is left of a caller's time when the wait ends, for the answer to reach it.
const WAIT_MARGIN: Duration = Duration::from_millis(250);
/// Duplicates that wait at once; the next one is answered at once that a run is under way.
const MAX_WAITERS: usize = 64;
/// Between two looks at a run that is under way: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));
/// Added to the operation's deadline: an owner that is merely slow must not lose its lease.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// How far the clocks of a worker and the broker may be apart.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5);
/// After a failure the store is left alone for so long: its timeout must not slow every write.
const PAUSE: Duration = Duration::from_secs(1);
/// Runs of others whose age is remembered.
const MAX_SIGHTINGS: usize = 10_000;

/// The lease this process holds on one key.
#[derive(Debug)]
struct Lease {
    key: String,
    record: Record,
    revision: u64,
}

/// What to do about a write.
enum Claim {
    /// Run it, and write down how it ended.
    Run(Lease),
    /// Run it without a lease: the store is away, and the database guards by itself.
    RunUnleased,
    /// It has been answered.
    Answered(Box<SavedResponse>),
    /// It has been answered, or is being: the database knows the answer, if there is one.
    Elsewhere { record: Record, revision: u64, is_done: bool },
    /// The key was used for another request, unless the database knows better.
    OtherWrite,
}

/// Grants one run per key, and remembers its answer.
pub struct Idempotency {
    store: Box<dyn KeyValueStore>,
    waiters: Semaphore,
    paused_until: Mutex<Option<Instant>>,
    /// Runs of others, and since when this process has seen them at the same revision.
    sightings: Cache<(String, u64), Instant>,
}

impl std::fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idempotency").finish_non_exhaustive()
    }
}

impl Idempotency {
    /// Leases in `store`.
    pub fn new(store: impl KeyValueStore) -> Self {
        Self {
            store: Box::new(store),
            waiters: Semaphore::new(MAX_WAITERS),
            paused_until: Mutex::new(None),
            sightings: Cache::new(MAX_SIGHTINGS),
        }
    }

    /// Runs `run` unless the write has been answered or is being: then gives that answer out. `find_saved` looks
    /// into the database. Completion of the lease goes on in `under_way` after the answer is returned.
    ///
    /// # Errors
    /// What `run` ends with; [`ProblemType::KeyReused`], [`ProblemType::KeyInProgress`].
    pub async fn once<R, K>(
        self: &Arc<Self>,
        cx: &Context,
        write: &IdempotentRequest,
        longest_run: Duration,
        run: R,
        find_saved: impl Fn() -> K,
        under_way: &TaskTracker,
    ) -> Result<Answer, Problem>
    where
        R: Future<Output = Result<Answer, Problem>>,
        K: Future<Output = Result<Option<SavedResponse>, Problem>>,
    {
        let lease = longest_run + LEASE_MARGIN;
        let key = lease_key(write);
        let wait_until =
            cx.deadline.checked_sub(WAIT_MARGIN).unwrap_or(cx.deadline).min(Instant::now() + MAX_WAIT);
        let mut waiting = None;
        let mut pause = POLL.0;
        loop {
            match self.turn(&key, write, lease, (cx.now, wait_until)).await? {
                Claim::Run(lease) => {
                    crash_point!("claimed");
                    let outcome = run.await;
                    match (&outcome, lease) {
                        // The record was lost, and the key is another write's.
                        (Err(problem), lease) if problem.kind == ProblemType::KeyReused => {
                            let saved = find_saved().await.ok().flatten();
                            let done = lease.record.done(saved.as_ref());
                            self.complete(&lease.key, done, lease.revision, under_way);
                        }
                        (_, lease) => self.settle(lease, cx, write, &outcome, under_way),
                    }
                    return outcome;
                }
                Claim::RunUnleased => return run.await,
                Claim::Answered(answer) => return replay(write, *answer),
                Claim::OtherWrite => {
                    return match find_saved().await? {
                        Some(answer) => replay(write, answer),
                        None => Err(refused(NoReplay::OtherWrite)),
                    };
                }
                Claim::Elsewhere { record, revision, is_done } => {
                    // When it is known to be done, it must not be said that nothing was.
                    let known = if is_done { Outcome::Unknown } else { Outcome::None };
                    if let Some(answer) = find_saved().await.map_err(|problem| problem.with_outcome(known))? {
                        if !is_done {
                            self.complete(&key, record.done(Some(&answer)), revision, under_way);
                        }
                        return replay(write, answer);
                    }
                    if is_done {
                        // Answered, but neither here nor in the database: forgotten between the two.
                        return run.await;
                    }
                }
            }
            if waiting.is_none() {
                waiting = Some(self.waiters.try_acquire().map_err(|_| in_progress())?);
            }
            if Instant::now() >= wait_until {
                return Err(in_progress());
            }
            tokio::time::sleep_until((Instant::now() + jittered(pause)).min(wait_until)).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Decides whose turn it is.
    async fn turn(
        &self,
        key: &str,
        write: &IdempotentRequest,
        lease: Duration,
        (now, give_up): (Timestamp, Instant),
    ) -> Result<Claim, Problem> {
        if self.is_paused() {
            count(&LEASES, "unavailable");
            return Ok(Claim::RunUnleased);
        }
        let owner = Uuid::now_v7();
        let running = Record::running(write, owner, lease);
        // Most keys are new: try that first, and look only when it is not.
        let (mut revision, mut taken_over) = (0, false);
        loop {
            let unanswered = match self.store.write(key, &running.to_bytes(), revision).await {
                Ok(revision) => {
                    count(&LEASES, if taken_over { "taken_over" } else { "granted" });
                    self.resume();
                    return Ok(Claim::Run(Lease { key: key.to_owned(), record: running, revision }));
                }
                Err(KeyValueError::Conflict) => None,
                Err(KeyValueError::Unavailable(error)) => Some(error),
            };
            if Instant::now() >= give_up {
                return Err(in_progress());
            }
            let entry = match (self.store.read(key).await, unanswered) {
                (Ok(Some(entry)), _) => entry,
                (Ok(None), Some(error)) | (Err(KeyValueError::Unavailable(error)), _) => {
                    return Ok(self.pause(&error));
                }
                // On its way to the other replicas: it will be there in a moment.
                (Ok(None), None) | (Err(KeyValueError::Conflict), _) => {
                    tokio::time::sleep(jittered(POLL.0)).await;
                    revision = 0;
                    continue;
                }
            };
            let Ok(record) = serde_json::from_slice::<Record>(&entry.record) else {
                // Deleted, or of a version we do not know: the database decides.
                revision = entry.revision;
                continue;
            };
            if record.owner == owner {
                return Ok(Claim::Run(Lease { key: key.to_owned(), record, revision: entry.revision }));
            }
            if record.fingerprint != running.fingerprint {
                return Ok(Claim::OtherWrite);
            }
            match record.state {
                State::Free => revision = entry.revision,
                State::Running if self.is_over(key, &record, &entry, now) => {
                    taken_over = true;
                    tracing::warn!("took over a run whose owner has stalled");
                    revision = entry.revision;
                }
                State::Running => {
                    return Ok(Claim::Elsewhere { record, revision: entry.revision, is_done: false });
                }
                State::Done => {
                    let saved = record.answer.clone().and_then(|answer| answer.into_saved(write.fingerprint));
                    return Ok(match saved {
                        Some(saved) => Claim::Answered(Box::new(saved)),
                        None => Claim::Elsewhere { record, revision: entry.revision, is_done: true },
                    });
                }
            }
        }
    }

    /// Whether a run's lease is over: by the broker's clock, or by our own since we first saw it.
    fn is_over(&self, key: &str, record: &Record, entry: &Entry, now: Timestamp) -> bool {
        let lease = Duration::from_millis(record.lease_ms);
        let age = now.unix_millis().saturating_sub(entry.written_at.unix_millis());
        let limit = i64::try_from((lease + MAX_CLOCK_SKEW).as_millis()).unwrap_or(i64::MAX);
        let sighting = (key.to_owned(), entry.revision);
        let seen = self.sightings.get(&sighting).unwrap_or_else(|| {
            self.sightings.insert(sighting, Instant::now());
            Instant::now()
        });
        age > limit || seen.elapsed() > lease
    }

    /// Writes down how a run ended.
    fn settle(
        self: &Arc<Self>,
        lease: Lease,
        cx: &Context,
        write: &IdempotentRequest,
        outcome: &Result<Answer, Problem>,
        under_way: &TaskTracker,
    ) {
        let next = match outcome {
            // Another worker had answered it: the database has the first answer as it was.
            Ok(_) if fault_point!("forget-saved") => Record { state: State::Free, ..lease.record.clone() },
            Ok(answer) if answer.first.is_some() => lease.record.done(None),
            Ok(answer) => lease.record.done(Some(&write.to_saved(answer, cx))),
            // It may have taken effect: the next run looks into the database.
            Err(problem) if problem.outcome == Outcome::Unknown => return,
            Err(_) => Record { state: State::Free, ..lease.record.clone() },
        };
        self.complete(&lease.key, next, lease.revision, under_way);
    }

    /// The answer does not wait for this: duplicates find it in the database meanwhile.
    fn complete(self: &Arc<Self>, key: &str, record: Record, revision: u64, under_way: &TaskTracker) {
        let (this, key) = (Arc::clone(self), key.to_owned());
        let write = async move {
            crash_point!("completing");
            if let Err(error) = this.store.write(&key, &record.to_bytes(), revision).await {
                tracing::debug!(%error, "could not write down how a keyed write ended");
            }
            crash_point!("completed");
        };
        under_way.spawn(write.instrument(span::detached("complete lease")));
    }

    fn is_paused(&self) -> bool {
        self.paused_until.lock().is_some_and(|until| Instant::now() < until)
    }

    fn pause(&self, error: &str) -> Claim {
        count(&LEASES, "unavailable");
        if self.paused_until.lock().replace(Instant::now() + PAUSE).is_none() {
            tracing::warn!(
                error,
                "the idempotency store is away; the database guards keyed writes by itself"
            );
        }
        Claim::RunUnleased
    }

    fn resume(&self) {
        if self.paused_until.lock().take().is_some() {
            tracing::info!("the idempotency store is back");
        }
    }
}

/// Counts how a keyed write ended.
pub fn count_ending(result: &Result<Answer, Problem>) {
    let outcome = match result {
        Ok(answer) if answer.first.is_some() => "replayed",
        Ok(_) => "executed",
        Err(problem) => match problem.kind {
            ProblemType::KeyReused => "key_reused",
            ProblemType::KeyInProgress => "in_progress",
            _ => "failed",
        },
    };
    count(&OUTCOMES, outcome);
}

/// How keyed writes ended.
static OUTCOMES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = meter().u64_counter("eventboard.idempotency.outcomes");
    counter.with_description("Writes under a client's key, by how they ended").build()
});

/// What came of asking for leases.
static LEASES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = meter().u64_counter("eventboard.idempotency.leases");
    counter.with_description("Leases of keyed writes, by whether they were had").build()
});

fn count(counter: &Counter<u64>, outcome: &'static str) {
    counter.add(1, &[KeyValue::new("eventboard.outcome", outcome)]);
}

/// Half fixed, half random: duplicates that came together do not look together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

fn replay(write: &IdempotentRequest, saved: SavedResponse) -> Result<Answer, Problem> {
    write.replay(saved).map_err(refused)
}

fn refused(reason: NoReplay) -> Problem {
    Failure::<Infallible>::from(reason).into_problem()
}

fn in_progress() -> Problem {
    Problem::new(ProblemType::KeyInProgress, "ask again in a moment, with the same key")
        .with_retry_after(Duration::from_secs(1))
}
