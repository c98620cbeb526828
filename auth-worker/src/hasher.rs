//! Argon2id on its own threads: each reuses its memory, none blocks the async runtime.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, KeyId, Params, ParamsBuilder, PasswordHash, Version};
use aws_lc_rs::constant_time;
use contract::auth::Secret;
use contract::begin_by;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
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
/// Permits per thread: enough to keep it busy while other attempts are counted.
const PERMITS_PER_THREAD: usize = 4;

/// Hashes and verifies passwords. Cloning shares the threads, which end with the last clone.
#[derive(Debug, Clone)]
pub struct Hasher {
    jobs: Sender<Job>,
    permits: Arc<Semaphore>,
    /// How many may wait for a permit.
    waiting: Arc<Semaphore>,
}

/// Leave to try a password: attempts are counted before they are hashed, and no more of them are begun than the
/// threads can finish. Hashing a new password needs none.
#[derive(Debug)]
pub struct HashingPermit(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

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
        Ok(Self {
            jobs,
            permits: Arc::new(Semaphore::new(threads * PERMITS_PER_THREAD)),
            waiting: Arc::new(Semaphore::new(threads * QUEUE_PER_THREAD)),
        })
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// [`HasherError::Busy`] when too many wait already, or there is no time left for the work.
    pub async fn permit(&self, deadline: Instant) -> Result<HashingPermit, HasherError> {
        let _waiting = self.waiting.try_acquire().map_err(|_| HasherError::Busy)?;
        let until = begin_by(deadline, Instant::now());
        match timeout_at(until, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(HashingPermit(permit)),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(HasherError::Busy),
        }
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
mod tests;
