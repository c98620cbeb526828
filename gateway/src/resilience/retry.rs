//! When a request is sent again: how often, after which wait, and out of which budget.

use std::time::Duration;

use contract::Repeat;
use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::window::Window;

/// How often a request is sent at most.
pub(crate) const ATTEMPTS: u32 = 3;
/// The longest wait before the first repetition; twice as long before each further one.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_millis(500);
/// An attempt that is not answered after this share of the whole time is given a second one beside it.
const PATIENCE: f64 = 0.4;
/// Repetitions of the last ten seconds: at most a tenth of the requests, or three a second where that is more.
const SHARE: u32 = 10;
const FLOOR: u32 = 30;

/// The counts of a [`Window`].
const REQUESTS: usize = 0;
const REPETITIONS: usize = 1;

/// What one service's failures may cost it in repetitions, so that these do not become its next trouble.
///
/// The greater of two bounds and not their sum, with which a brownout would always amplify beyond the tenth
/// (`docs/adr/0014-resilience.md`).
#[derive(Debug)]
pub(crate) struct RetryBudget(Window);

impl RetryBudget {
    /// Nothing was sent yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Window::new(now))
    }

    /// Counts a request.
    pub(crate) fn count_request(&mut self, now: Instant) {
        self.0.count(REQUESTS, now);
    }

    /// Takes one repetition out, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let [requests, repetitions] = self.0.counts(now);
        let granted = repetitions < FLOOR.max(requests / SHARE);
        if granted {
            self.0.count(REPETITIONS, now);
        }
        granted
    }
}

/// How long to wait before the `repetition`th repetition: anything up to the limit, so that those who failed
/// together do not come back together ("full jitter").
pub(crate) fn delay(repetition: u32, chance: &mut impl Rng) -> Duration {
    let limit = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(repetition - 1)).min(LONGEST_DELAY);
    limit.mul_f64(chance.random_range(0.0..1.0))
}

/// How long the first attempt of a call that has `remaining` may go unanswered before another is made.
pub(crate) fn hedge_after(remaining: Duration) -> Duration {
    remaining.mul_f64(PATIENCE)
}

/// After how long without an answer a worker counts as failed, for an operation with this deadline and repeat rule.
/// It is the same for every caller: one who waits for less learns nothing about the worker.
pub(crate) fn slow_after(deadline: Duration, repeat: Repeat) -> Duration {
    match repeat {
        Repeat::Safe | Repeat::WithKey => hedge_after(deadline),
        // Not sent again: nearly all of its time is waited.
        Repeat::ByClient | Repeat::Never => deadline.mul_f64(0.9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_half_a_second_and_use_the_whole_range() {
        let mut chance = rand::rng();
        for (repetition, limit) in [(1, 50), (2, 100), (3, 200), (4, 400), (5, 500), (40, 500)] {
            let limit = Duration::from_millis(limit);
            let delays: Vec<Duration> = (0..500).map(|_| delay(repetition, &mut chance)).collect();
            assert!(delays.iter().all(|delay| *delay < limit), "{repetition}");
            assert!(delays.iter().any(|delay| *delay < limit / 4), "{repetition}");
            assert!(delays.iter().any(|delay| *delay > limit * 3 / 4), "{repetition}");
        }
    }

    #[test]
    fn the_budget_is_a_tenth_of_the_requests_or_three_a_second() {
        let mut now = Instant::now();
        let mut budget = RetryBudget::new(now);
        let spend = |budget: &mut RetryBudget, now| (0..10_000).take_while(|_| budget.take(now)).count();
        assert_eq!(spend(&mut budget, now), 30);
        (0..1000).for_each(|_| budget.count_request(now));
        assert_eq!(spend(&mut budget, now), 70, "a hundred in all");
        now += Duration::from_secs(20);
        assert_eq!(spend(&mut budget, now), 30);
    }
}
