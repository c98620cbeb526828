//! Argon2id on its own threads: each reuses its memory, none blocks the async runtime.

use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, PasswordHash, Version};
use aws_lc_rs::constant_time;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use shared::contract::auth::Secret;
use tokio::sync::oneshot;
use tokio::time::Instant;

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
    /// The queue is full: come back later.
    #[error("the password queue is full")]
    Busy,
    /// Its turn came after the deadline.
    #[error("the deadline passed in the password queue")]
    Expired,
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

/// Work for a thread, unless its turn comes after the deadline.
struct Job {
    deadline: Instant,
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
    pub fn start(threads: usize) -> Result<Self, HasherError> {
        let threads = threads.max(1);
        let (jobs, queue) = crossbeam_channel::bounded(threads * QUEUE_PER_THREAD);
        for number in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("argon2-{number}"))
                .spawn(move || work(&queue))
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
        self.submit(deadline, Work::Hash { password, salt, reply })?;
        result.await.map_err(|error| HasherError::Failed(error.to_string()))?
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
        self.submit(deadline, Work::Verify { password, stored, reply })?;
        let verified = result.await.map_err(|error| HasherError::Failed(error.to_string()))??;
        Ok(Verified { matches: known && verified.matches, ..verified })
    }

    fn submit(&self, deadline: Instant, work: Work) -> Result<(), HasherError> {
        self.jobs.try_send(Job { deadline, work }).map_err(|error| match error {
            TrySendError::Full(_) => HasherError::Busy,
            TrySendError::Disconnected(_) => HasherError::Failed("the hashing threads are gone".to_owned()),
        })
    }
}

fn work(queue: &Receiver<Job>) {
    let mut memory = Vec::new();
    loop {
        match queue.recv_timeout(IDLE) {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => memory = Vec::new(),
            Ok(Job { deadline, work }) => perform(work, deadline, &mut memory),
        }
    }
}

fn perform(work: Work, deadline: Instant, memory: &mut Vec<Block>) {
    match work {
        Work::Hash { password, salt, reply } => answer(reply, deadline, || hash(&password, &salt, memory)),
        Work::Verify { password, stored, reply } => {
            answer(reply, deadline, || verify(&password, &stored, memory));
        }
    }
}

/// Does `work` and sends what comes of it, unless nobody waits any more.
fn answer<T>(
    reply: oneshot::Sender<Result<T, HasherError>>,
    deadline: Instant,
    work: impl FnOnce() -> Result<T, HasherError>,
) {
    if !reply.is_closed() {
        let result = if Instant::now() < deadline { work() } else { Err(HasherError::Expired) };
        let _ = reply.send(result);
    }
}

fn current_params() -> Result<Params, HasherError> {
    Params::new(MEMORY_KIB, PASSES, LANES, Some(OUTPUT))
        .map_err(|error| HasherError::Failed(error.to_string()))
}

fn hash(password: &Secret, salt: &[u8; SALT], memory: &mut Vec<Block>) -> Result<String, HasherError> {
    let failed = |error: &dyn std::fmt::Display| HasherError::Failed(error.to_string());
    let params = current_params()?;
    let mut output = [0; OUTPUT];
    derive(password, salt, params.clone(), memory, &mut output)?;
    let stored = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|error| failed(&error))?,
        salt: Some(Salt::new(salt).map_err(|error| failed(&error))?),
        hash: Some(Output::new(&output).map_err(|error| failed(&error))?),
    };
    Ok(stored.to_string())
}

fn verify(password: &Secret, stored: &str, memory: &mut Vec<Block>) -> Result<Verified, HasherError> {
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
    let mut output = vec![0; expected.len()];
    let outdated = (params.m_cost(), params.t_cost()) != (MEMORY_KIB, PASSES);
    derive(password, salt.as_ref(), params, memory, &mut output)?;
    let matches = constant_time::verify_slices_are_equal(&output, expected.as_bytes()).is_ok();
    Ok(Verified { matches, outdated })
}

fn derive(
    password: &Secret,
    salt: &[u8],
    params: Params,
    memory: &mut Vec<Block>,
    output: &mut [u8],
) -> Result<(), HasherError> {
    let blocks = params.block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(password.expose().as_bytes(), salt, output, &mut memory[..blocks])
        .map_err(|error| HasherError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn verifies_what_it_hashed_and_nothing_else() {
        let hasher = Hasher::start(1).unwrap();
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
        let hasher = Hasher::start(1).unwrap();
        let mut memory = Vec::new();
        let params = Params::new(8, 1, 1, Some(OUTPUT)).unwrap();
        let mut output = [0; OUTPUT];
        derive(&secret("x"), &[1; SALT], params.clone(), &mut memory, &mut output).unwrap();
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
        assert_eq!(late, Err(HasherError::Expired));
    }

    #[tokio::test]
    async fn a_full_queue_says_so_at_once() {
        let hasher = Hasher::start(1).unwrap();
        let waiting: Vec<_> =
            (0..QUEUE_PER_THREAD + 8).map(|_| hasher.verify(secret("x"), None, soon())).collect();
        let results = futures_util::future::join_all(waiting).await;
        assert!(results.contains(&Err(HasherError::Busy)));
        assert!(results.iter().any(Result::is_ok));
    }
}
