//! Argon2id on its own threads: each reuses its memory, none blocks the async runtime.

use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, KeyId, Params, ParamsBuilder, PasswordHash, Version};
use aws_lc_rs::constant_time;
use contract::auth::Secret;
use contract::begin_by;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::metrics::Waiting;
use crate::peppers::Peppers;

/// What is left of a caller's time for what follows a hash: a session or an account is written. On a busy machine that
/// takes longer than an answer needs to arrive, and who is refused in time knows that nothing was done.
const WORK_AFTER: Duration = Duration::from_millis(350);

/// Memory in KiB, passes, lanes: OWASP's recommendation for Argon2id.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Verified for unknown accounts, so that they cost the same as known ones. Random bytes in the place of
/// a hash: no password is known that gives them.
const DUMMY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$1CisIaH2i4FTe4UDpOgEpw$aSXiGDsy2wE92+GZ7K+OEJ53s0ZfLMAUJSiKbYGcs54";
/// Bytes of output.
const OUTPUT: usize = 32;
/// Bytes of salt.
const SALT: usize = 16;
/// The most memory a stored hash may ask for, in KiB: a row must not be able to exhaust the machine.
const MAX_STORED_MEMORY_KIB: u32 = 65_536;
/// The most passes a stored hash may ask for.
const MAX_STORED_PASSES: u32 = 10;
/// A thread that has had nothing to do for this long gives its memory back.
const IDLE: Duration = Duration::from_secs(10);
/// How far hashing stands back behind whatever else this machine has to do, as `nice` counts: it fills every core
/// for as long as logins come, and no other request should wait for it.
const NICENESS: i32 = 5;
/// A password is tried if there is time for it, as the last ones took it; after a pause of the whole process that
/// must not be for ever.
const LONGEST_ESTIMATE: Duration = Duration::from_secs(1);
/// Waiting jobs per thread; at 16 ms a hash, a full queue is a wait of half a second.
const QUEUE_PER_THREAD: usize = 32;

/// Hashes and verifies passwords. Cloning shares the threads, which end with the last clone.
#[derive(Debug, Clone)]
pub struct Hasher {
    jobs: Sender<Job>,
}

/// Why a password was neither hashed nor verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HasherError {
    /// The queue is full, or the work was not done in time for the deadline: come back later.
    #[error("too many passwords are waiting")]
    Busy,
    /// The stored hash is not one of ours, or asks for too much.
    #[error("the stored password hash cannot be used: {0}")]
    StoredHash(&'static str),
    /// Argon2 refused its input, or its thread is gone.
    #[error("argon2 failed: {0}")]
    Failed(String),
}

/// The result of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Whether the password is the right one.
    pub matches: bool,
    /// Whether the stored hash was made with other parameters than today's.
    pub outdated: bool,
}

/// Work for a thread, unless its turn comes too late for the deadline.
struct Job {
    done_by: Instant,
    waiting: Waiting,
    work: Work,
}

enum Work {
    Hash { password: Secret, salt: [u8; SALT], reply: oneshot::Sender<Result<String, HasherError>> },
    Verify { password: Secret, stored: String, reply: oneshot::Sender<Result<Verified, HasherError>> },
}

impl Hasher {
    /// Starts `threads` hashing threads.
    ///
    /// # Errors
    /// When a thread cannot be started, or the first hash fails.
    pub fn start(threads: usize, peppers: Peppers) -> Result<Self, HasherError> {
        let threads = threads.max(1);
        let (jobs, queue) = crossbeam_channel::bounded(threads * QUEUE_PER_THREAD);
        for number in 0..threads {
            let (queue, peppers) = (queue.clone(), peppers.clone());
            std::thread::Builder::new()
                .name(format!("argon2-{number}"))
                .spawn(move || work(&queue, &peppers))
                .map_err(|error| HasherError::Failed(error.to_string()))?;
        }
        Ok(Self { jobs })
    }

    /// Hashes a new password with a fresh salt.
    ///
    /// # Errors
    /// [`HasherError`].
    pub async fn hash(&self, password: Secret, deadline: Instant) -> Result<String, HasherError> {
        let mut salt = [0; SALT];
        aws_lc_rs::rand::fill(&mut salt).map_err(|error| HasherError::Failed(error.to_string()))?;
        let (reply, result) = oneshot::channel();
        self.submit("password.hash", deadline, Work::Hash { password, salt, reply }, result).await
    }

    /// Compares a password with a stored hash; `None` costs the same and never matches.
    ///
    /// # Errors
    /// [`HasherError`].
    pub async fn verify(
        &self,
        password: Secret,
        stored: Option<String>,
        deadline: Instant,
    ) -> Result<Verified, HasherError> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| DUMMY.to_owned());
        let (reply, result) = oneshot::channel();
        let work = Work::Verify { password, stored, reply };
        let verified = self.submit("password.verify", deadline, work, result).await?;
        Ok(Verified { matches: known && verified.matches, ..verified })
    }

    /// Hands `work` to a thread and waits for its result, or until it is too late to use it: nothing has been
    /// written by then, and the caller has to learn that.
    async fn submit<T>(
        &self,
        name: &'static str,
        deadline: Instant,
        work: Work,
        result: oneshot::Receiver<Result<T, HasherError>>,
    ) -> Result<T, HasherError> {
        let waiting = Waiting::begin(name);
        let now = Instant::now();
        let after = WORK_AFTER.min(deadline.saturating_duration_since(now) / 4);
        let done_by = begin_by(deadline.checked_sub(after).unwrap_or(now), now);
        self.jobs.try_send(Job { done_by, waiting, work }).map_err(|error| match error {
            TrySendError::Full(_) => HasherError::Busy,
            TrySendError::Disconnected(_) => HasherError::Failed("the hashing threads are gone".to_owned()),
        })?;
        let result = timeout_at(done_by, result).await.map_err(|_| HasherError::Busy)?;
        result.map_err(|error| HasherError::Failed(error.to_string()))?
    }
}

fn work(queue: &Receiver<Job>, peppers: &Peppers) {
    // Of the calling thread alone. Where that is not allowed, hashing takes its turn like everything else.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    let (mut memory, mut takes) = (Vec::new(), Duration::ZERO);
    loop {
        match queue.recv_timeout(IDLE) {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => memory = Vec::new(),
            Ok(Job { done_by, waiting, work }) => {
                // Until the work is done.
                let _span = waiting.end();
                let begun = Instant::now();
                perform(work, done_by.checked_sub(takes).unwrap_or(begun), peppers, &mut memory);
                takes = begun.elapsed().max(takes / 2).min(LONGEST_ESTIMATE);
            }
        }
    }
}

fn perform(work: Work, latest: Instant, peppers: &Peppers, memory: &mut Vec<Block>) {
    match work {
        Work::Hash { password, salt, reply } => {
            answer(reply, latest, || hash(&password, &salt, peppers, memory))
        }
        Work::Verify { password, stored, reply } => {
            answer(reply, latest, || verify(&password, &stored, peppers, memory));
        }
    }
}

/// Does `work` if it can begin before `latest`, and sends what comes of it, unless the caller has gone.
fn answer<T>(
    reply: oneshot::Sender<Result<T, HasherError>>,
    latest: Instant,
    work: impl FnOnce() -> Result<T, HasherError>,
) {
    if !reply.is_closed() {
        let result = if Instant::now() < latest { work() } else { Err(HasherError::Busy) };
        let _ = reply.send(result);
    }
}

fn hash(
    password: &Secret,
    salt: &[u8; SALT],
    peppers: &Peppers,
    memory: &mut Vec<Block>,
) -> Result<String, HasherError> {
    let failed = |error: &dyn std::fmt::Display| HasherError::Failed(error.to_string());
    let (pepper_id, pepper) = peppers.current();
    let keyid = KeyId::new(pepper_id).map_err(|error| failed(&error))?;
    let mut params = ParamsBuilder::new();
    let params = params.m_cost(MEMORY_KIB).t_cost(PASSES).p_cost(LANES).output_len(OUTPUT).keyid(keyid);
    let params = params.build().map_err(|error| failed(&error))?;
    let mut output = [0; OUTPUT];
    derive(password, salt, pepper, params.clone(), memory, &mut output)?;
    let stored = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|error| failed(&error))?,
        salt: Some(Salt::new(salt).map_err(|error| failed(&error))?),
        hash: Some(Output::new(&output).map_err(|error| failed(&error))?),
    };
    Ok(stored.to_string())
}

fn verify(
    password: &Secret,
    stored: &str,
    peppers: &Peppers,
    memory: &mut Vec<Block>,
) -> Result<Verified, HasherError> {
    let stored = PasswordHash::new(stored).map_err(|_| HasherError::StoredHash("not a PHC string"))?;
    if stored.algorithm != ARGON2ID_IDENT {
        return Err(HasherError::StoredHash("not argon2id"));
    }
    let params = Params::try_from(&stored).map_err(|_| HasherError::StoredHash("unreadable parameters"))?;
    if params.m_cost() > MAX_STORED_MEMORY_KIB
        || params.t_cost() > MAX_STORED_PASSES
        || params.p_cost() != LANES
    {
        return Err(HasherError::StoredHash("parameters beyond the limits"));
    }
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
        return Err(HasherError::StoredHash("no salt or no hash"));
    };
    let pepper = peppers.secret(params.keyid());
    let pepper = pepper.ok_or(HasherError::StoredHash("its pepper is not configured"))?;
    let mut output = vec![0; expected.len()];
    let current = (MEMORY_KIB, PASSES, peppers.current().0);
    let outdated = (params.m_cost(), params.t_cost(), params.keyid()) != current;
    derive(password, salt.as_ref(), pepper, params, memory, &mut output)?;
    let matches = constant_time::verify_slices_are_equal(&output, expected.as_bytes()).is_ok();
    Ok(Verified { matches, outdated })
}

fn derive(
    password: &Secret,
    salt: &[u8],
    pepper: &[u8],
    params: Params,
    memory: &mut Vec<Block>,
    output: &mut [u8],
) -> Result<(), HasherError> {
    let blocks = params.block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    let failed = |error: argon2::Error| HasherError::Failed(error.to_string());
    Argon2::new_with_secret(pepper, Algorithm::Argon2id, Version::V0x13, params)
        .map_err(failed)?
        .hash_password_into_with_memory(password.expose().as_bytes(), salt, output, &mut memory[..blocks])
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn verifies_what_it_hashed_and_nothing_else() {
        let hasher = Hasher::start(1, Peppers::default()).unwrap();
        let stored = hasher.hash(secret("correct horse"), soon()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let verify = async |password, stored| hasher.verify(secret(password), stored, soon()).await.unwrap();
        assert_eq!(
            verify("correct horse", Some(stored.clone())).await,
            Verified { matches: true, outdated: false }
        );
        assert!(!verify("wrong horse", Some(stored)).await.matches);
        // As costly as a real one, and never a match.
        assert_eq!(verify("correct horse", None).await, Verified { matches: false, outdated: false });
    }

    #[tokio::test]
    async fn old_parameters_still_verify_and_greedy_ones_are_refused() {
        let hasher = Hasher::start(1, Peppers::default()).unwrap();
        let mut memory = Vec::new();
        let params = Params::new(8, 1, 1, Some(OUTPUT)).unwrap();
        let mut output = [0; OUTPUT];
        derive(&secret("x"), &[1; SALT], &[], params.clone(), &mut memory, &mut output).unwrap();
        let old = PasswordHash {
            algorithm: ARGON2ID_IDENT,
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).unwrap(),
            salt: Some(Salt::new(&[1; SALT]).unwrap()),
            hash: Some(Output::new(&output).unwrap()),
        };
        let verified = hasher.verify(secret("x"), Some(old.to_string()), soon()).await.unwrap();
        assert_eq!(verified, Verified { matches: true, outdated: true });
        let greedy = old.to_string().replace("m=8", "m=4194304");
        let refused = hasher.verify(secret("x"), Some(greedy), soon()).await;
        assert!(matches!(refused, Err(HasherError::StoredHash(_))));
        // Too late, and so not even tried.
        let late = hasher.verify(secret("x"), None, Instant::now()).await;
        assert_eq!(late, Err(HasherError::Busy));
        // There is no time for it any more: it would be done after the caller has gone.
        hasher.verify(secret("x"), None, soon()).await.unwrap();
        let hardly = Instant::now() + Duration::from_millis(1);
        assert_eq!(hasher.verify(secret("x"), None, hardly).await, Err(HasherError::Busy));
    }

    #[tokio::test]
    async fn hashes_with_an_older_pepper_or_none_still_verify_and_are_outdated() {
        let (old, new) = (format!("old:{}", "x".repeat(32)), format!("new:{}", "y".repeat(32)));
        let hasher = |peppers: &str| Hasher::start(1, peppers.parse().unwrap()).unwrap();
        let plain = Hasher::start(1, Peppers::default()).unwrap();
        let both = hasher(&format!("{new},{old}"));
        for (made_by, outdated) in [(&plain, true), (&hasher(&old), true), (&both, false)] {
            let stored = made_by.hash(secret("correct horse"), soon()).await.unwrap();
            let verify = async |password| both.verify(secret(password), Some(stored.clone()), soon()).await;
            assert_eq!(verify("correct horse").await, Ok(Verified { matches: true, outdated }), "{stored}");
            assert!(!verify("wrong horse").await.unwrap().matches);
            assert!(!stored.contains("xxxx") && !stored.contains("yyyy"));
        }
        // Without its pepper a hash is of no use, not even with another one under the same name.
        let stored = both.hash(secret("correct horse"), soon()).await.unwrap();
        let refused = plain.verify(secret("correct horse"), Some(stored.clone()), soon()).await;
        assert!(matches!(refused, Err(HasherError::StoredHash(_))), "{refused:?}");
        let other = hasher(&format!("new:{}", "z".repeat(32)));
        assert!(!other.verify(secret("correct horse"), Some(stored), soon()).await.unwrap().matches);
    }

    #[tokio::test]
    async fn what_takes_longer_than_there_is_time_is_not_waited_for() {
        let hasher = Hasher::start(1, Peppers::default()).unwrap();
        let stored = hasher.hash(secret("x"), soon()).await.unwrap();
        let slow = stored.replace("m=19456,t=2", "m=65536,t=10");
        // Of a thread that does not know yet how long one takes.
        let hasher = Hasher::start(1, Peppers::default()).unwrap();
        let in_a_moment = Instant::now() + Duration::from_millis(40);
        assert_eq!(hasher.verify(secret("x"), Some(slow), in_a_moment).await, Err(HasherError::Busy));
    }

    #[tokio::test]
    async fn a_full_queue_says_so_at_once() {
        let hasher = Hasher::start(1, Peppers::default()).unwrap();
        let waiting: Vec<_> =
            (0..QUEUE_PER_THREAD + 8).map(|_| hasher.verify(secret("x"), None, soon())).collect();
        let results = futures_util::future::join_all(waiting).await;
        assert!(results.contains(&Err(HasherError::Busy)));
        assert!(results.iter().any(Result::is_ok));
    }

    proptest! {
        /// A damaged row never matches, never panics, and never asks for more than the limits allow.
        #[test]
        fn damaged_hashes_are_refused(at: prop::sample::Index, with in "[$=,0-9a-zA-Z+/]{0,3}") {
            let small = "$argon2id$v=19$m=8,t=1,p=1$AQEBAQEBAQEBAQEBAQEBAQ$J2mQqv0Tk4GtdIzt7cnRpuRYHzVxEBC1xSj0MGV7vVw";
            let at = at.index(small.len());
            let damaged = format!("{}{with}{}", &small[..at], &small[at + 1..]);
            let verified = verify(&secret("x"), &damaged, &Peppers::default(), &mut Vec::new());
            prop_assert!(!verified.is_ok_and(|verified| verified.matches), "{damaged}");
        }
    }
}
