//! Revoked access tokens in JetStream KV: written by the auth worker, followed by everyone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use contract::Timestamp;
use futures_util::{StreamExt, TryStreamExt, stream};
use identity::revocations::{Revocation, Revocations, STALE};
use telemetry::health::Health;
use tokio::time::Instant;

use super::{Bucket, RequestClient};
use crate::key_value::{KeyValueError, KeyValueStore};

/// Between two looks at what is new. With the time a revocation takes to get here it is under half of the
/// second after which it must act everywhere.
const INTERVAL: Duration = Duration::from_millis(300);
/// The same while nothing is known: a process that starts has no link yet when it looks first.
const INTERVAL_WHILE_UNKNOWN: Duration = Duration::from_millis(20);
/// Messages read or written at once where there are many.
const AT_ONCE: usize = 64;
/// What `/health` calls it.
const CHECK: &str = "revocations";

/// Reads and writes what is revoked.
#[derive(Debug)]
pub struct RevocationBucket {
    bucket: Bucket,
    /// How often the bucket was found to have lost what it held.
    losses: AtomicU64,
}

/// How far a reader has come.
#[derive(Debug, Default)]
struct Position {
    created: String,
    last: u64,
}

impl RevocationBucket {
    /// The bucket reached by `client`.
    pub fn new(client: RequestClient) -> Self {
        Self { bucket: Bucket::revocations(client), losses: AtomicU64::new(0) }
    }

    /// Keeps `revocations` equal to what is written. By questions, not by a subscription: each answer proves
    /// that nothing is missing, and no service needs the right to make consumers (ADR 15).
    pub async fn follow(&self, revocations: &Revocations, health: &Health) -> ! {
        let mut position = Position::default();
        // Who has just started has no answer yet, and nothing to say about that.
        let (mut answered, mut said) = (Instant::now(), false);
        loop {
            let began = Instant::now();
            let caught_up = self.catch_up(&mut position, revocations).await;
            if caught_up.is_ok() {
                revocations.note_look(began, Timestamp::now());
                (answered, said) = (began, false);
            } else if let Err(error) = &caught_up
                && began.duration_since(answered) > STALE
                && !said
            {
                tracing::warn!(%error, "cannot see which tokens are revoked; privileged commands are refused");
                said = true;
            }
            let seen = caught_up.map(|()| None).map_err(|error| error.to_string());
            health.observe(CHECK, began.elapsed(), seen);
            let interval = if revocations.are_known() { INTERVAL } else { INTERVAL_WHILE_UNKNOWN };
            tokio::time::sleep_until(began + interval).await;
        }
    }

    async fn catch_up(
        &self,
        position: &mut Position,
        revocations: &Revocations,
    ) -> Result<(), KeyValueError> {
        let (created, extent) = self.bucket.extent().await?;
        if created != position.created || extent.last < position.last {
            *position = Position { created, last: 0 };
            self.losses.fetch_add(1, Ordering::Relaxed);
        } else if extent.messages == 0 && !revocations.is_empty() {
            // Purged, or so old that both will be empty in a moment.
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
        let missing = (position.last + 1).max(extent.first)..=extent.last;
        let mut records =
            stream::iter(missing).map(|sequence| self.bucket.record(sequence)).buffered(AT_ONCE);
        while let Some(record) = records.try_next().await? {
            let Some(record) = record else { continue };
            match Revocation::parse(&record.key, &record.entry.record) {
                Some(revocation) => revocations.note(revocation, Timestamp::now()),
                None => tracing::warn!("something in the bucket of revocations is no revocation"),
            }
        }
        position.last = extent.last;
        Ok(())
    }

    /// What a writer compares to know that it must write everything again.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Writes what is not in `written` yet, and adds it there.
    ///
    /// # Errors
    /// [`KeyValueError::Unavailable`]; what was written until then is in `written`.
    pub async fn publish(
        &self,
        revocations: &[Revocation],
        written: &mut HashSet<Revocation>,
    ) -> Result<(), KeyValueError> {
        let missing: Vec<_> =
            revocations.iter().copied().filter(|revocation| !written.contains(revocation)).collect();
        let writes = missing.into_iter().map(async |revocation| {
            self.write(revocation).await?;
            Ok::<_, KeyValueError>(revocation)
        });
        let mut writes = stream::iter(writes).buffer_unordered(AT_ONCE);
        while let Some(revocation) = writes.try_next().await? {
            written.insert(revocation);
        }
        Ok(())
    }

    async fn write(&self, revocation: Revocation) -> Result<(), KeyValueError> {
        let key = revocation.key();
        loop {
            let entry = self.bucket.read(&key).await?;
            let there = entry.as_ref().and_then(|entry| Revocation::parse(&key, &entry.record));
            if there.is_some_and(|there| there.covers(&revocation)) {
                return Ok(());
            }
            let revision = entry.map_or(0, |entry| entry.revision);
            match self.bucket.write(&key, revocation.record().as_bytes(), revision).await {
                Ok(_) => return Ok(()),
                // Another worker was faster, maybe with less.
                Err(KeyValueError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
