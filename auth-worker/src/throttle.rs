//! How often a password may be guessed: counted before the guess is tried, for all workers together.
//!
//! Three counters are kept of each attempt: of the account, of the address it comes from, and of both together.
//! They stand in JetStream KV under keyed hashes; accounts that do not exist are counted like others. An attempt
//! is reserved by compare-and-set before the password is hashed, so that guesses sent at once are not cheaper
//! than guesses sent one by one (GHSA-7h8m-vrxx-vr4m).

mod attempt_counter;
mod keyed_lock;
mod memory_store;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::auth::Email;
use contract::{ClientNetwork, Failure, Timestamp, begin_by};
use futures_util::future::join_all;
use messaging::key_value::{KeyValueError, KeyValueStore};
use rand::RngExt;
use tokio::time::Instant;

use crate::hasher::{Hasher, HashingPermit};
use crate::metrics;
use attempt_counter::{AttemptCounter, Forgets, Guessed, Limit, Verdict};
use keyed_lock::{KeyedLock, LockRefused};
use memory_store::MemoryStore;

/// Of an account and a network together. Their owner's success forgets the failures.
const PAIR: Limit = Limit { name: "pair", free: 5, forgets: Forgets::AfterSuccess };
/// Of an account, wherever from. Networks from which its owner has signed in are not held back by it.
const ACCOUNT: Limit = Limit { name: "account", free: 20, forgets: Forgets::AfterSuccess };
/// Of a network, at whichever account. A success says nothing of the other accounts it was tried at; a network
/// that many people share may fail once a minute for good.
const NETWORK: Limit = Limit { name: "network", free: 100, forgets: Forgets::OneEach(60_000) };

/// How long an attempt waits for others of the same account whose outcome is not known yet: most of a login's
/// deadline, as its password may be right.
const MAX_WAIT: Duration = Duration::from_secs(4);
/// Between two looks at them, in milliseconds.
const POLL_MS: std::ops::Range<u64> = 10..30;
/// When to come back after that.
const COME_BACK: Duration = Duration::from_secs(1);
/// After a conflict another worker goes first, for so many microseconds.
const BACKOFF_US: std::ops::Range<u64> = 100..1500;
/// How long noting the end of an attempt may take.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Conflicts after which an attempt waits with the others.
const MAX_CONFLICTS: usize = 20;
/// After a failure the shared counters are left alone for so long: their timeout must not slow every login.
const PAUSE_MS: i64 = 1000;

/// Counts attempts.
pub(crate) struct Throttle {
    key: hmac::Key,
    shared: Arc<dyn KeyValueStore>,
    /// Of this worker alone, while the shared ones cannot be reached.
    local: Arc<dyn KeyValueStore>,
    /// Until when the shared ones are left alone, Unix milliseconds.
    away_until: AtomicI64,
    /// Of accounts and networks together.
    locks: KeyedLock,
    hasher: Hasher,
}

/// Why an attempt was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There were too many before; the next one may come after this time.
    TooMany(Duration),
    /// So many attempts at whichever accounts are under way that there is no time for this one.
    Busy,
}

/// An attempt that may be made. One that is dropped without a word counts as failed after a while.
pub(crate) struct Attempt {
    store: Arc<dyn KeyValueStore>,
    reservations: Vec<Reservation>,
    _permit: HashingPermit,
}

/// An attempt that is counted under one key.
struct Reservation {
    key: String,
    limit: &'static Limit,
    counter: AttemptCounter,
    revision: u64,
    reserved_at: i64,
}

/// What stands under one key.
struct Seen {
    key: String,
    limit: &'static Limit,
    counter: AttemptCounter,
    revision: u64,
}

/// Why an attempt was not reserved.
enum NotReserved {
    Wait,
    Refused(Duration),
}

impl Throttle {
    /// Counts in `shared`, under hashes made with `key`, what `hasher` tries.
    pub(crate) fn new(key: hmac::Key, shared: Arc<dyn KeyValueStore>, hasher: Hasher) -> Self {
        Self {
            key,
            shared,
            local: Arc::new(MemoryStore::default()),
            away_until: AtomicI64::new(0),
            locks: KeyedLock::default(),
            hasher,
        }
    }

    /// Waits for a permit and counts an attempt at the account of `email`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) async fn admit(
        &self,
        email: &Email,
        network: Option<ClientNetwork>,
        deadline: Instant,
    ) -> Result<Attempt, Refusal> {
        let admitted = self.wait_for_turn(email, network, deadline).await;
        if let Err(refusal) = &admitted {
            metrics::password_tried(refusal.name());
        }
        admitted
    }

    async fn wait_for_turn(
        &self,
        email: &Email,
        network: Option<ClientNetwork>,
        deadline: Instant,
    ) -> Result<Attempt, Refusal> {
        let now = Instant::now();
        let give_up_at = begin_by(deadline, now).min(now + MAX_WAIT);
        let keys = self.keys(email, network);
        let (pair, _) = &keys[0];
        let guard = self.locks.wait(pair, give_up_at).await.map_err(|no_turn| match no_turn {
            LockRefused::Late => Refusal::TooMany(COME_BACK),
            LockRefused::Refused(pause) => Refusal::TooMany(pause),
        })?;
        loop {
            let permit = self.hasher.permit(deadline).await.map_err(|_| Refusal::Busy)?;
            match self.reserve(&keys).await {
                Ok((store, reservations)) => return Ok(Attempt { store, reservations, _permit: permit }),
                Err(NotReserved::Refused(pause)) => {
                    guard.refuse_others(pause);
                    return Err(Refusal::TooMany(pause));
                }
                // Waiting here takes no permit from others.
                Err(NotReserved::Wait) => drop(permit),
            }
            if Instant::now() >= give_up_at {
                return Err(Refusal::TooMany(COME_BACK));
            }
            let pause = rand::rng().random_range(POLL_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// The keys of an attempt: of the pair, the account and the network.
    fn keys(&self, email: &Email, network: Option<ClientNetwork>) -> [(String, &'static Limit); 3] {
        // Who sends messages by hand is in no network; all of them count together.
        let network = network.map_or_else(|| "none".to_owned(), |network| network.to_string());
        let key = |limit: &'static Limit, parts: [&str; 2]| {
            let tag = hmac::sign(&self.key, format!("{}\n{}\n{}", limit.name, parts[0], parts[1]).as_bytes());
            let hash = URL_SAFE_NO_PAD.encode(&tag.as_ref()[..16]);
            (format!("{}.{hash}", limit.name), limit)
        };
        [
            key(&PAIR, [email.as_str(), &network]),
            key(&ACCOUNT, [email.as_str(), ""]),
            key(&NETWORK, [&network, ""]),
        ]
    }

    /// Reserves the attempt in all counters, or in none.
    async fn reserve(
        &self,
        keys: &[(String, &'static Limit); 3],
    ) -> Result<(Arc<dyn KeyValueStore>, Vec<Reservation>), NotReserved> {
        let now = Timestamp::now().unix_millis();
        if self.away_until.load(Ordering::Relaxed) <= now {
            match reserve_all(&*self.shared, keys).await {
                Ok(reserved) => return reserved.map(|reserved| (Arc::clone(&self.shared), reserved)),
                Err(error) => {
                    tracing::warn!(%error, "failed logins are counted by this worker alone");
                    self.away_until.store(now + PAUSE_MS, Ordering::Relaxed);
                }
            }
        }
        match reserve_all(&*self.local, keys).await {
            Ok(reserved) => reserved.map(|reserved| (Arc::clone(&self.local), reserved)),
            // A map in memory does not fail.
            Err(_) => Err(NotReserved::Wait),
        }
    }
}

async fn look(
    store: &dyn KeyValueStore,
    (key, limit): &(String, &'static Limit),
) -> Result<Seen, KeyValueError> {
    let entry = store.read(key).await?;
    let counter = entry.as_ref().map(|entry| AttemptCounter::read(&entry.record)).unwrap_or_default();
    Ok(Seen { key: key.clone(), limit, counter, revision: entry.map_or(0, |entry| entry.revision) })
}

async fn reserve_all(
    store: &dyn KeyValueStore,
    [pair, account, network]: &[(String, &'static Limit); 3],
) -> Result<Result<Vec<Reservation>, NotReserved>, KeyValueError> {
    let (pair, account, network) =
        tokio::try_join!(look(store, pair), look(store, account), look(store, network))?;
    // Guesses at an account must not keep its owner out where they have signed in before.
    let counted =
        if pair.counter.knows_success() { vec![pair, network] } else { vec![pair, account, network] };
    let now = Timestamp::now().unix_millis();
    // Nothing is written for an attempt that is not made.
    for seen in &counted {
        match seen.counter.admit(seen.limit, now) {
            Verdict::Admitted(_) => {}
            Verdict::Wait => return Ok(Err(NotReserved::Wait)),
            Verdict::Refused(pause) => return Ok(Err(NotReserved::Refused(pause))),
        }
    }
    let results = join_all(counted.into_iter().map(|seen| reserve(store, seen))).await;
    let (mut reservations, mut refused) = (Vec::new(), Ok(None));
    for result in results {
        match result {
            Ok(Ok(reservation)) => reservations.push(reservation),
            Ok(Err(refusal)) => refused = refused.map(|_| Some(refusal)),
            Err(error) => refused = Err(error),
        }
    }
    match refused {
        Ok(None) => Ok(Ok(reservations)),
        refused => {
            settle(store, reservations, Guessed::NotTried).await;
            refused.map(|refusal| Err(refusal.unwrap_or(NotReserved::Wait)))
        }
    }
}

async fn reserve(
    store: &dyn KeyValueStore,
    mut seen: Seen,
) -> Result<Result<Reservation, NotReserved>, KeyValueError> {
    for _ in 0..MAX_CONFLICTS {
        let now = Timestamp::now().unix_millis();
        let counter = match seen.counter.admit(seen.limit, now) {
            Verdict::Admitted(counter) => counter,
            Verdict::Wait => return Ok(Err(NotReserved::Wait)),
            Verdict::Refused(pause) => return Ok(Err(NotReserved::Refused(pause))),
        };
        match store.write(&seen.key, &counter.write(), seen.revision).await {
            Ok(revision) => {
                let Seen { key, limit, .. } = seen;
                return Ok(Ok(Reservation { key, limit, counter, revision, reserved_at: now }));
            }
            Err(KeyValueError::Conflict) => back_off().await,
            Err(error) => return Err(error),
        }
        seen = look(store, &(seen.key, seen.limit)).await?;
    }
    Ok(Err(NotReserved::Wait))
}

async fn back_off() {
    let pause = rand::rng().random_range(BACKOFF_US);
    tokio::time::sleep(Duration::from_micros(pause)).await;
}

/// Notes how an attempt ended. What cannot be noted counts as failed after a while.
async fn settle(store: &dyn KeyValueStore, reservations: Vec<Reservation>, guessed: Guessed) {
    let settled = reservations.into_iter().map(async |reservation| {
        let Reservation { key, limit, reserved_at, mut counter, mut revision } = reservation;
        loop {
            let settled = counter.settle(limit, reserved_at, guessed, Timestamp::now().unix_millis());
            match store.write(&key, &settled.write(), revision).await {
                Ok(_) => return Ok(()),
                Err(KeyValueError::Conflict) => back_off().await,
                Err(error) => return Err(error),
            }
            let entry = store.read(&key).await?;
            (counter, revision) = entry
                .map_or_else(Default::default, |entry| (AttemptCounter::read(&entry.record), entry.revision));
        }
    });
    let all = tokio::time::timeout(SETTLE_TIMEOUT, join_all(settled)).await;
    let failed = all.map(|all| all.into_iter().find_map(Result::err));
    match failed {
        Ok(None) => {}
        Ok(Some(error)) => tracing::debug!(%error, "could not note how a login ended"),
        Err(_) => tracing::debug!("could not note in time how a login ended"),
    }
}

impl Attempt {
    /// Notes how the attempt ended: an operation that tries a password refuses nothing but a wrong one.
    pub(crate) async fn settle<T, E>(self, outcome: &Result<T, Failure<E>>) {
        let guessed = match outcome {
            Ok(_) => Guessed::Right,
            Err(Failure::Refused(_)) => Guessed::Wrong,
            Err(_) => Guessed::NotTried,
        };
        metrics::password_tried(match guessed {
            Guessed::Right => "right",
            Guessed::Wrong => "wrong",
            Guessed::NotTried => "failed",
        });
        settle(&*self.store, self.reservations, guessed).await;
    }
}

impl Refusal {
    /// The refusal in one word.
    const fn name(self) -> &'static str {
        match self {
            Self::TooMany(_) => "throttled",
            Self::Busy => "busy",
        }
    }

    /// The failure this refusal becomes; `too_many` makes the operation's own.
    pub(crate) fn into_failure<E>(self, too_many: impl FnOnce(Duration) -> E) -> Failure<E> {
        match self {
            Self::TooMany(pause) => Failure::Refused(too_many(pause)),
            Self::Busy => Failure::Overloaded,
        }
    }
}
