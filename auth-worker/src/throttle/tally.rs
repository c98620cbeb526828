//! What is counted of attempts, and what follows from it. Rules only: no store, and no clock of its own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The pause after the first failure that is not free; each further one doubles it.
const FIRST_PAUSE_MS: i64 = 1000;
/// The longest pause: nobody is ever locked out for good.
const LONGEST_PAUSE_MS: i64 = 15 * 60 * 1000;
/// An attempt whose end nobody noted for so long counts as failed: its worker is gone.
const ABANDONED_MS: i64 = 15_000;

/// How many failures are free.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// What is counted.
    pub(super) name: &'static str,
    /// Failures before the first pause.
    pub(super) free: u32,
    /// Whether a success forgets the failures before it.
    pub(super) forgets: bool,
}

/// What was counted under one key. Times are Unix milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    failures: u32,
    failed_at: i64,
    /// Attempts whose end is not known.
    pending: u32,
    reserved_at: i64,
}

/// Whether another attempt may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may, once this is written.
    Admitted(Tally),
    /// That depends on how those under way end.
    Wait,
    /// Not before this time has passed.
    Refused(Duration),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guessed {
    /// With the right password.
    Right,
    /// With a wrong one, or at an account that does not exist.
    Wrong,
    /// Before the password was tried.
    NotTried,
}

impl Tally {
    /// Reads a record. One that cannot be read counts nothing: only workers write them.
    pub(super) fn read(record: &[u8]) -> Self {
        serde_json::from_slice(record).unwrap_or_default()
    }

    /// The record.
    pub(super) fn write(&self) -> Vec<u8> {
        // Numbers only: serialisation into memory has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Judges another attempt at `now`.
    pub(super) fn admit(mut self, limit: &Limit, now: i64) -> Verdict {
        if self.pending > 0 && now >= self.reserved_at.saturating_add(ABANDONED_MS) {
            self.failures = self.failures.saturating_add(self.pending);
            self.failed_at = self.failed_at.max(self.reserved_at);
            self.pending = 0;
        }
        let over = self.failed_at.saturating_add(self.pause(limit));
        if now < over {
            let left = u64::try_from(over.saturating_sub(now)).unwrap_or_default();
            return Verdict::Refused(Duration::from_millis(left));
        }
        // Beyond the free ones they are made one by one.
        let room = limit.free.saturating_sub(self.failures).max(1);
        if self.pending >= room {
            return Verdict::Wait;
        }
        self.pending += 1;
        self.reserved_at = now;
        Verdict::Admitted(self)
    }

    /// What is counted once a reserved attempt has ended at `now`.
    pub(super) fn settle(mut self, limit: &Limit, guessed: Guessed, now: i64) -> Self {
        self.pending = self.pending.saturating_sub(1);
        match guessed {
            Guessed::Right if limit.forgets => self.failures = 0,
            Guessed::Right | Guessed::NotTried => {}
            Guessed::Wrong => {
                self.failures = self.failures.saturating_add(1);
                self.failed_at = now;
            }
        }
        self
    }

    /// How long after the last failure the next attempt may be made, in milliseconds.
    fn pause(&self, limit: &Limit) -> i64 {
        match self.failures.checked_sub(limit.free) {
            None => 0,
            Some(beyond) => {
                FIRST_PAUSE_MS.checked_shl(beyond.min(30)).unwrap_or(i64::MAX).min(LONGEST_PAUSE_MS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Limit = Limit { name: "pair", free: 5, forgets: true };

    fn admitted(tally: Tally, now: i64) -> Tally {
        match tally.admit(&LIMIT, now) {
            Verdict::Admitted(tally) => tally,
            verdict => panic!("{tally:?} at {now}: {verdict:?}"),
        }
    }

    fn fail(tally: Tally, now: i64) -> Tally {
        admitted(tally, now).settle(&LIMIT, Guessed::Wrong, now)
    }

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour() {
        let (mut tally, mut now) = (Tally::default(), 1_000_000);
        for _ in 0..LIMIT.free {
            tally = fail(tally, now);
        }
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let Verdict::Refused(pause) = tally.admit(&LIMIT, now) else { panic!("{tally:?}") };
            pauses.push(pause.as_secs());
            now += i64::try_from(pause.as_millis()).unwrap();
            tally = fail(tally, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        tally = admitted(tally, now + LONGEST_PAUSE_MS).settle(&LIMIT, Guessed::Right, now);
        assert_eq!((tally.failures, tally.pending), (0, 0), "a success forgets");
        let network = Limit { forgets: false, ..LIMIT };
        let tally = Tally { failures: 3, pending: 1, ..tally }.settle(&network, Guessed::Right, now);
        assert_eq!((tally.failures, tally.pending), (3, 0), "a success of a network's does not");
    }

    #[test]
    fn attempts_under_way_count_until_they_have_ended() {
        let mut tally = Tally::default();
        for _ in 0..LIMIT.free {
            tally = admitted(tally, 1000);
        }
        assert_eq!(tally.admit(&LIMIT, 1000), Verdict::Wait);
        let withdrawn = tally.settle(&LIMIT, Guessed::NotTried, 1000);
        assert!(matches!(withdrawn.admit(&LIMIT, 1000), Verdict::Admitted(_)));
        // Nobody noted how they ended.
        let at = 1000 + ABANDONED_MS;
        assert_eq!(tally.admit(&LIMIT, at - 1), Verdict::Wait);
        let after = admitted(tally, at);
        assert_eq!((after.failures, after.pending), (5, 1));
        assert_eq!(after.admit(&LIMIT, at), Verdict::Wait, "one by one from here on");
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let tally = Tally { failures: 1, failed_at: 2, pending: 3, reserved_at: 4 };
        assert_eq!(Tally::read(&tally.write()), tally);
        assert_eq!(Tally::read(b"{"), Tally::default());
    }

    proptest! {
        /// Whatever attempts overlap: never more wrong passwords are tried than the free ones and one for each
        /// pause that has passed.
        #[test]
        fn no_more_are_tried_than_the_pauses_allow(
            steps in prop::collection::vec((0_i64..800, any::<bool>(), 0_usize..8), 1..200),
        ) {
            let (mut tally, mut now, mut open, mut failed) = (Tally::default(), 1_000_000, 0_u32, Vec::new());
            for (passes, ends, how_many) in steps {
                now += passes;
                for _ in 0..how_many {
                    if ends && open > 0 {
                        tally = tally.settle(&LIMIT, Guessed::Wrong, now);
                        open -= 1;
                        failed.push(now);
                    } else if let Verdict::Admitted(next) = tally.admit(&LIMIT, now) {
                        tally = next;
                        open += 1;
                    }
                }
                let tried = u32::try_from(failed.len()).unwrap();
                let most = LIMIT.free.saturating_sub(tried).max(1);
                prop_assert!(open <= most, "{open} under way after {tried}");
            }
            for (index, pair) in failed.windows(2).enumerate().skip(LIMIT.free as usize - 1) {
                let doublings = u32::try_from(index + 1).unwrap() - LIMIT.free;
                let pause = (FIRST_PAUSE_MS << doublings.min(20)).min(LONGEST_PAUSE_MS);
                prop_assert!(pair[1] - pair[0] >= pause, "{index}: {pair:?}");
            }
        }
    }
}
