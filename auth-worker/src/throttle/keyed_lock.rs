//! One after the other: of the attempts under one key, only the first in line looks at its counter.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Attempts in one line; one more is refused, and blocks no others.
const LONGEST: usize = 64;

/// The lines of all keys under which an attempt waits.
#[derive(Debug, Default)]
pub(super) struct KeyedLock(Mutex<HashMap<String, Arc<Line>>>);

/// Those who wait under one key.
#[derive(Debug)]
struct Line {
    /// Closed once the first one has been refused: then all behind it are.
    guard: Arc<Semaphore>,
    /// For how long.
    refused: OnceLock<Duration>,
}

/// The place of one attempt in its line. Dropping it leaves the line.
#[derive(Debug)]
pub(super) struct KeyedLockGuard<'a> {
    locks: &'a KeyedLock,
    key: &'a str,
    line: Arc<Line>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Why an attempt's turn did not come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LockRefused {
    /// The line is too long, or it did not come in time.
    Late,
    /// Who was before them was refused, for so long.
    Refused(Duration),
}

impl KeyedLock {
    /// Waits under `key` until all that came before have left the line.
    ///
    /// # Errors
    /// [`LockRefused`].
    pub(super) async fn wait<'a>(
        &'a self,
        key: &'a str,
        give_up_at: Instant,
    ) -> Result<KeyedLockGuard<'a>, LockRefused> {
        let mut guard = self.line_up(key).ok_or(LockRefused::Late)?;
        let permit = Arc::clone(&guard.line.guard).acquire_owned();
        match tokio::time::timeout_at(give_up_at, permit).await {
            Ok(Ok(permit)) => guard.permit = Some(permit),
            Ok(Err(_)) => {
                return Err(guard
                    .line
                    .refused
                    .get()
                    .map_or(LockRefused::Late, |pause| LockRefused::Refused(*pause)));
            }
            Err(_) => return Err(LockRefused::Late),
        }
        Ok(guard)
    }

    fn line_up<'a>(&'a self, key: &'a str) -> Option<KeyedLockGuard<'a>> {
        let mut lines = self.0.lock();
        let line = lines.entry(key.to_owned()).or_insert_with(|| {
            Arc::new(Line { guard: Arc::new(Semaphore::new(1)), refused: OnceLock::new() })
        });
        // One is the map's own.
        let longest = Arc::strong_count(line) > LONGEST;
        (!longest).then(|| KeyedLockGuard { locks: self, key, line: Arc::clone(line), permit: None })
    }
}

impl KeyedLockGuard<'_> {
    /// Refuses all behind this one, too: they came before the pause was over.
    pub(super) fn refuse_others(self, pause: Duration) {
        let mut lines = self.locks.0.lock();
        // Attempts from here on stand in a new line.
        lines.remove(self.key);
        drop(lines);
        let _ = self.line.refused.set(pause);
        self.line.guard.close();
    }
}

impl Drop for KeyedLockGuard<'_> {
    fn drop(&mut self) {
        let mut lines = self.locks.0.lock();
        let is_last = |line: &Arc<Line>| Arc::ptr_eq(line, &self.line) && Arc::strong_count(line) == 2;
        if lines.get(self.key).is_some_and(is_last) {
            lines.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn one_goes_after_the_other_and_nothing_is_left() {
        let locks = KeyedLock::default();
        let first = locks.wait("a", soon()).await.unwrap();
        let other = locks.wait("b", soon()).await.unwrap();
        let mut second = Box::pin(locks.wait("a", soon()));
        assert!(second.as_mut().now_or_never().is_none(), "not before the first has left");
        let mut third = Box::pin(locks.wait("a", soon()));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        drop(second);
        let third = third.await.unwrap();
        assert_eq!(locks.wait("a", Instant::now()).await.unwrap_err(), LockRefused::Late);
        drop((third, other));
        assert!(locks.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_refusal_reaches_those_behind_and_nobody_later() {
        let locks = KeyedLock::default();
        let first = locks.wait("a", soon()).await.unwrap();
        let mut behind: Vec<_> = (1..LONGEST).map(|_| Box::pin(locks.wait("a", soon()))).collect();
        for one in &mut behind {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert_eq!(locks.wait("a", soon()).await.unwrap_err(), LockRefused::Late, "the line is too long");
        first.refuse_others(Duration::from_secs(7));
        let later = locks.wait("a", soon()).await.unwrap();
        for refused in join_all(behind).await {
            assert_eq!(refused.unwrap_err(), LockRefused::Refused(Duration::from_secs(7)));
        }
        drop(later);
        assert!(locks.0.lock().is_empty());
    }
}
