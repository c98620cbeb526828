//! One after the other: of the attempts under one key, only the first in line looks at its tally.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Attempts in one line; whoever comes then is told to come back, and keeps nobody else from this worker.
const LONGEST: usize = 64;

/// The lines of all keys under which anybody waits.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Arc<Line>>>);

/// Those who wait under one key.
#[derive(Debug)]
struct Line {
    /// Closed once the first one has been refused: then everybody behind it is.
    turn: Arc<Semaphore>,
    /// For how long.
    refused: OnceLock<Duration>,
}

/// The place of one attempt in its line. Whoever drops it leaves.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: &'a str,
    line: Arc<Line>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Why somebody's turn did not come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// The line is too long, or it did not come in time.
    Late,
    /// Who was before them was refused, for so long.
    Refused(Duration),
}

impl Turns {
    /// Waits under `key` until everybody who came before has left the line.
    ///
    /// # Errors
    /// [`NoTurn`].
    pub(super) async fn wait<'a>(&'a self, key: &'a str, patience: Instant) -> Result<Turn<'a>, NoTurn> {
        let mut turn = self.line_up(key).ok_or(NoTurn::Late)?;
        let permit = Arc::clone(&turn.line.turn).acquire_owned();
        match tokio::time::timeout_at(patience, permit).await {
            Ok(Ok(permit)) => turn.permit = Some(permit),
            Ok(Err(_)) => {
                return Err(turn.line.refused.get().map_or(NoTurn::Late, |pause| NoTurn::Refused(*pause)));
            }
            Err(_) => return Err(NoTurn::Late),
        }
        Ok(turn)
    }

    fn line_up<'a>(&'a self, key: &'a str) -> Option<Turn<'a>> {
        let mut lines = self.lines();
        let line = lines.entry(key.to_owned()).or_insert_with(|| {
            Arc::new(Line { turn: Arc::new(Semaphore::new(1)), refused: OnceLock::new() })
        });
        // One is the map's own.
        let longest = Arc::strong_count(line) > LONGEST;
        (!longest).then(|| Turn { turns: self, key, line: Arc::clone(line), permit: None })
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<String, Arc<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Refuses everybody behind this one, too: they came before the pause was over.
    pub(super) fn refuse_others(self, pause: Duration) {
        let mut lines = self.turns.lines();
        // Whoever comes from here on stands in a new line.
        lines.remove(self.key);
        drop(lines);
        let _ = self.line.refused.set(pause);
        self.line.turn.close();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut lines = self.turns.lines();
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
        let turns = Turns::default();
        let first = turns.wait("a", soon()).await.unwrap();
        let other = turns.wait("b", soon()).await.unwrap();
        let mut second = Box::pin(turns.wait("a", soon()));
        assert!(second.as_mut().now_or_never().is_none(), "not before the first has left");
        let mut third = Box::pin(turns.wait("a", soon()));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        drop(second);
        let third = third.await.unwrap();
        assert_eq!(turns.wait("a", Instant::now()).await.unwrap_err(), NoTurn::Late);
        drop((third, other));
        assert!(turns.lines().is_empty());
    }

    #[tokio::test]
    async fn a_refusal_reaches_those_behind_and_nobody_later() {
        let turns = Turns::default();
        let first = turns.wait("a", soon()).await.unwrap();
        let mut behind: Vec<_> = (1..LONGEST).map(|_| Box::pin(turns.wait("a", soon()))).collect();
        for one in &mut behind {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert_eq!(turns.wait("a", soon()).await.unwrap_err(), NoTurn::Late, "the line is too long");
        first.refuse_others(Duration::from_secs(7));
        let later = turns.wait("a", soon()).await.unwrap();
        for refused in join_all(behind).await {
            assert_eq!(refused.unwrap_err(), NoTurn::Refused(Duration::from_secs(7)));
        }
        drop(later);
        assert!(turns.lines().is_empty());
    }
}
