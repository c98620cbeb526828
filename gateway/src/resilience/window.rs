//! Two counts over the last ten seconds.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Seconds that are remembered.
const SECONDS: u64 = 10;

/// How often two things happened in the last ten seconds, second by second.
#[derive(Debug)]
pub(crate) struct Window {
    born: Instant,
    /// A second since `born`, and the two counts of it; the newest last.
    buckets: VecDeque<(u64, [u32; 2])>,
}

impl Window {
    /// Nothing has happened.
    pub(crate) fn new(now: Instant) -> Self {
        Self { born: now, buckets: VecDeque::new() }
    }

    /// Counts one of the two, 0 or 1.
    pub(crate) fn count(&mut self, which: usize, now: Instant) {
        let second = self.second(now);
        if self.buckets.back().is_none_or(|(last, _)| *last < second) {
            self.buckets.push_back((second, [0, 0]));
        }
        if let Some((_, counts)) = self.buckets.back_mut() {
            counts[which] += 1;
        }
        while self.buckets.front().is_some_and(|(first, _)| first + SECONDS <= second) {
            self.buckets.pop_front();
        }
    }

    /// Both counts.
    pub(crate) fn counts(&self, now: Instant) -> [u32; 2] {
        let second = self.second(now);
        let recent = self.buckets.iter().filter(|(bucket, _)| bucket + SECONDS > second);
        recent.fold([0, 0], |sum, (_, counts)| [sum[0] + counts[0], sum[1] + counts[1]])
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_older_than_ten_seconds_is_forgotten() {
        let born = Instant::now();
        let at = |seconds| born + Duration::from_secs(seconds);
        let mut window = Window::new(born);
        window.count(0, at(0));
        window.count(1, at(5));
        window.count(1, at(5));
        assert_eq!(window.counts(at(9)), [1, 2]);
        assert_eq!(window.counts(at(10)), [0, 2]);
        assert_eq!(window.counts(at(15)), [0, 0]);
        window.count(0, at(30));
        assert_eq!((window.counts(at(30)), window.buckets.len()), ([1, 0], 1));
    }
}
