//! What is counted of attempts, and what follows from it. Rules only: no store, and no clock of its own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The pause after the first failure that is not free; each further one doubles it.
const FIRST_PAUSE_MS: i64 = 1000;
/// The longest pause: no account is ever locked for good.
const LONGEST_PAUSE_MS: i64 = 15 * 60 * 1000;
/// An attempt whose end was not noted for so long counts as failed: its worker is gone.
const ABANDONED_MS: i64 = 15_000;

/// How many failures are free.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// What is counted.
    pub(super) name: &'static str,
    /// Failures before the first pause.
    pub(super) free: u32,
    /// What makes failures be forgotten.
    pub(super) forgets: Forgets,
}

/// What makes failures be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgets {
    /// A success, all of them.
    AfterSuccess,
    /// Time, one after each so many milliseconds.
    OneEach(i64),
}

/// What was counted under one key. Times are Unix milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AttemptCounter {
    failures: u32,
    failed_at: i64,
    /// Until when failures have been forgotten by time.
    #[serde(default)]
    forgotten_until: i64,
    /// When the attempts began whose end is not known.
    pending: Vec<i64>,
    /// The last right password.
    #[serde(default)]
    succeeded_at: i64,
}

/// Whether another attempt may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may, once this is written.
    Admitted(AttemptCounter),
    /// That depends on how those under way end.
    Wait,
    /// Not before this time has passed.
    Refused(Duration),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guessed {
    /// With the right password.
    Right,
    /// With a wrong one, or at an account that does not exist.
    Wrong,
    /// Before the password was tried.
    NotTried,
}

impl AttemptCounter {
    /// Reads a record. One that cannot be read counts nothing: only workers write them.
    pub(super) fn read(record: &[u8]) -> Self {
        serde_json::from_slice(record).unwrap_or_default()
    }

    /// The record.
    pub(super) fn write(&self) -> Vec<u8> {
        // Numbers only: serialisation into memory has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether there was a successful login under this key, as far as it is remembered.
    pub(super) fn knows_success(&self) -> bool {
        self.succeeded_at > 0
    }

    /// Judges another attempt at `now`.
    pub(super) fn admit(&self, limit: &Limit, now: i64) -> Verdict {
        let mut counter = self.aged(limit, now);
        let over = counter.failed_at.saturating_add(counter.pause(limit));
        if now < over {
            let left = u64::try_from(over.saturating_sub(now)).unwrap_or_default();
            return Verdict::Refused(Duration::from_millis(left));
        }
        // Beyond the free ones they are made one by one.
        let room = limit.free.saturating_sub(counter.failures).max(1);
        if u32::try_from(counter.pending.len()).unwrap_or(u32::MAX) >= room {
            return Verdict::Wait;
        }
        counter.pending.push(now);
        Verdict::Admitted(counter)
    }

    /// What is counted once the attempt that was reserved at `reserved_at` has ended at `now`.
    pub(super) fn settle(&self, limit: &Limit, reserved_at: i64, guessed: Guessed, now: i64) -> Self {
        let mut counter = self.clone();
        // Not there any more: it was abandoned, and has been counted as failed.
        if let Some(at) = counter.pending.iter().position(|began| *began == reserved_at) {
            counter.pending.swap_remove(at);
        }
        match guessed {
            Guessed::NotTried => {}
            Guessed::Wrong => counter.fail(1, now),
            Guessed::Right => {
                counter.succeeded_at = now;
                if limit.forgets == Forgets::AfterSuccess {
                    counter.failures = 0;
                }
            }
        }
        counter
    }

    /// Counts so many failures, the last of them at `at`.
    fn fail(&mut self, count: u32, at: i64) {
        if self.failures == 0 {
            // What is forgotten by time counts from the first.
            self.forgotten_until = at;
        }
        self.failures = self.failures.saturating_add(count);
        self.failed_at = self.failed_at.max(at);
    }

    /// The counter as time alone has changed it.
    fn aged(&self, limit: &Limit, now: i64) -> Self {
        let mut counter = self.clone();
        let abandoned = |began: &i64| now >= began.saturating_add(ABANDONED_MS);
        if let Some(last) = counter.pending.iter().copied().filter(abandoned).max() {
            let before = counter.pending.len();
            counter.pending.retain(|began| !abandoned(began));
            let count = u32::try_from(before - counter.pending.len()).unwrap_or(u32::MAX);
            counter.fail(count, last);
        }
        if let Forgets::OneEach(interval) = limit.forgets {
            let passed = now.saturating_sub(counter.forgotten_until).max(0) / interval;
            counter.failures = counter.failures.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX));
            counter.forgotten_until = counter.forgotten_until.saturating_add(passed.saturating_mul(interval));
        }
        counter
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

    const LIMIT: Limit = Limit { name: "pair", free: 5, forgets: Forgets::AfterSuccess };

    fn admitted(counter: &AttemptCounter, now: i64) -> AttemptCounter {
        match counter.admit(&LIMIT, now) {
            Verdict::Admitted(counter) => counter,
            verdict => panic!("{counter:?} at {now}: {verdict:?}"),
        }
    }

    fn fail(counter: &AttemptCounter, now: i64) -> AttemptCounter {
        admitted(counter, now).settle(&LIMIT, now, Guessed::Wrong, now)
    }

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour() {
        let (mut counter, mut now) = (AttemptCounter::default(), 1_000_000);
        for _ in 0..LIMIT.free {
            counter = fail(&counter, now);
        }
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let Verdict::Refused(pause) = counter.admit(&LIMIT, now) else { panic!("{counter:?}") };
            pauses.push(pause.as_secs());
            now += i64::try_from(pause.as_millis()).unwrap();
            counter = fail(&counter, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        now += LONGEST_PAUSE_MS;
        assert!(!counter.knows_success());
        counter = admitted(&counter, now).settle(&LIMIT, now, Guessed::Right, now);
        assert!(
            counter.failures == 0 && counter.pending.is_empty() && counter.knows_success(),
            "{counter:?}"
        );
    }

    #[test]
    fn a_network_forgets_by_time_and_not_by_success() {
        let network = Limit { name: "network", free: 100, forgets: Forgets::OneEach(60_000) };
        let (start, minute) = (1_000_000_000, 60_000);
        let mut counter = AttemptCounter {
            failures: 103,
            failed_at: start,
            forgotten_until: start,
            ..AttemptCounter::default()
        };
        assert_eq!(counter.admit(&network, start), Verdict::Refused(Duration::from_secs(8)));
        counter = counter.settle(&network, 0, Guessed::Right, start);
        assert_eq!(counter.failures, 103, "an attacker with an account may not go on guessing");
        // Once a minute it may fail for good, however long it has been busy.
        let mut now = start;
        for _ in 0..10_000 {
            now += minute;
            let Verdict::Admitted(next) = counter.admit(&network, now) else { panic!("{counter:?}") };
            counter = next.settle(&network, now, Guessed::Wrong, now);
        }
        let Verdict::Admitted(quiet) = counter.admit(&network, now + 200 * minute) else {
            panic!("{counter:?}")
        };
        assert_eq!(quiet.failures, 0);
    }

    #[test]
    fn a_network_forgets_a_minute_after_its_first_failure_and_not_when_the_clock_begins_another() {
        let network = Limit { name: "network", free: 100, forgets: Forgets::OneEach(60_000) };
        let (mut counter, end_of_a_minute) = (AttemptCounter::default(), 20_000 * 60_000 - 1);
        for _ in 0..network.free {
            let Verdict::Admitted(next) = counter.admit(&network, end_of_a_minute) else {
                panic!("{counter:?}")
            };
            counter = next.settle(&network, end_of_a_minute, Guessed::Wrong, end_of_a_minute);
        }
        let after = counter.admit(&network, end_of_a_minute + 1);
        assert_eq!(after, Verdict::Refused(Duration::from_millis(999)));
        assert_eq!(counter.aged(&network, end_of_a_minute + 60_000).failures, 99);
    }

    #[test]
    fn attempts_under_way_count_until_they_have_ended() {
        let mut counter = AttemptCounter::default();
        for began in 1000..1000 + i64::from(LIMIT.free) {
            counter = admitted(&counter, began);
        }
        assert_eq!(counter.admit(&LIMIT, 2000), Verdict::Wait);
        let withdrawn = counter.settle(&LIMIT, 1001, Guessed::NotTried, 2000);
        assert!(matches!(withdrawn.admit(&LIMIT, 2000), Verdict::Admitted(_)));
        // Their ends were not noted; each is given up by itself, however busy the key is.
        let after = counter.aged(&LIMIT, 1001 + ABANDONED_MS);
        assert_eq!((after.failures, after.pending.len()), (2, 3));
        let all = admitted(&counter, 5000 + ABANDONED_MS);
        assert_eq!((all.failures, all.pending.len()), (5, 1));
        assert_eq!(all.admit(&LIMIT, 5000 + ABANDONED_MS), Verdict::Wait, "one by one from here on");
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let counter = AttemptCounter {
            failures: 1,
            failed_at: 2,
            pending: vec![3],
            forgotten_until: 4,
            succeeded_at: 5,
        };
        assert_eq!(AttemptCounter::read(&counter.write()), counter);
        assert_eq!(AttemptCounter::read(b"{"), AttemptCounter::default());
    }

    proptest! {
        /// Whatever attempts overlap: never more wrong passwords are tried than the free ones and one for each
        /// pause that has passed.
        #[test]
        fn no_more_are_tried_than_the_pauses_allow(
            steps in prop::collection::vec((0_i64..800, any::<bool>(), 0_usize..8), 1..200),
        ) {
            let (mut counter, mut now, mut open, mut failed) = (AttemptCounter::default(), 1_000_000, Vec::new(), Vec::new());
            for (passes, ends, how_many) in steps {
                now += passes;
                for _ in 0..how_many {
                    if let Some(began) = ends.then(|| open.pop()).flatten() {
                        counter = counter.settle(&LIMIT, began, Guessed::Wrong, now);
                        failed.push(now);
                    } else if let Verdict::Admitted(next) = counter.admit(&LIMIT, now) {
                        counter = next;
                        open.push(now);
                    }
                }
                let tried = u32::try_from(failed.len()).unwrap();
                let most = LIMIT.free.saturating_sub(tried).max(1) as usize;
                // Those given up are counted as failed although they are open here.
                let abandoned = open.iter().filter(|began| now - **began >= ABANDONED_MS).count();
                prop_assert!(open.len() - abandoned <= most, "{open:?} under way after {tried}");
            }
            for (index, pair) in failed.windows(2).enumerate().skip(LIMIT.free as usize - 1) {
                let doublings = u32::try_from(index + 1).unwrap() - LIMIT.free;
                let pause = (FIRST_PAUSE_MS << doublings.min(20)).min(LONGEST_PAUSE_MS);
                prop_assert!(pair[1] - pair[0] >= pause, "{index}: {pair:?}");
            }
        }
    }
}
