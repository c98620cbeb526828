//! When a request is sent again: how often, after which wait, and out of which budget.

use std::time::Duration;

use rand::{Rng, RngExt};
use tower::retry::budget::{Budget, TpsBudget};

/// How often a request is sent at most.
pub(crate) const ATTEMPTS: u32 = 3;
/// The longest wait before the first repetition; twice as long before each further one.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_millis(500);
/// An attempt that is not answered after this share of the whole time is given a second one beside it.
const PATIENCE: f64 = 0.4;
/// Repetitions per request that are always allowed, in a window of [`WINDOW`], and per second.
const SHARE: f32 = 0.1;
const PER_SECOND: u32 = 3;
const WINDOW: Duration = Duration::from_secs(10);

/// What one service's failures may cost it in repetitions, so that these do not become its next trouble.
#[derive(Debug)]
pub(crate) struct RetryBudget(TpsBudget);

impl RetryBudget {
    /// A tenth of the requests of the last ten seconds, and three a second.
    pub(crate) fn new() -> Self {
        Self(TpsBudget::new(WINDOW, PER_SECOND, SHARE))
    }

    /// Counts a request.
    pub(crate) fn count_request(&self) {
        self.0.deposit();
    }

    /// Takes one repetition out, if there is one.
    pub(crate) fn take(&self) -> bool {
        self.0.withdraw()
    }
}

/// How long to wait before the `repetition`th repetition: anything up to the limit, so that those who failed
/// together do not come back together ("full jitter").
pub(crate) fn delay(repetition: u32, chance: &mut impl Rng) -> Duration {
    let limit = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(repetition - 1)).min(LONGEST_DELAY);
    limit.mul_f64(chance.random_range(0.0..1.0))
}

/// How long the first attempt of a call that has `remaining` may go unanswered before another is made.
pub(crate) fn patience(remaining: Duration) -> Duration {
    remaining.mul_f64(PATIENCE)
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

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_a_tenth_of_the_requests_and_three_a_second() {
        let budget = RetryBudget::new();
        let spend = |budget: &RetryBudget| (0..10_000).take_while(|_| budget.take()).count();
        assert_eq!(spend(&budget), 30);
        (0..1000).for_each(|_| budget.count_request());
        assert_eq!(spend(&budget), 100);
        tokio::time::sleep(WINDOW * 2).await;
        assert_eq!(spend(&budget), 30);
    }
}
