//! A circuit breaker: who fails again and again is not asked for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;

/// So many failures in a row open it.
const CONSECUTIVE_FAILURES: u32 = 5;
/// Fewer calls than this, of the last ten seconds, say nothing about the share of successes.
const MIN_CALLS: u32 = 20;
/// How long it stays open the first time; twice as long each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A pause is up to this share shorter or longer, so that several gateways do not probe together.
const JITTER: f64 = 0.2;
/// So many probes in a row must succeed, one at a time.
const PROBES: u32 = 3;

/// What a call says about the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// They work, whatever they said.
    Success,
    /// They do not.
    Failure,
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Calls go through.
    Closed,
    /// One call at a time goes through, to see.
    HalfOpen,
    /// No call goes through.
    Open,
}

impl State {
    /// One word for logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Leave to make one call. Must be given back: by [`Breaker::record`], or by [`Breaker::abandon`] when the
/// call said nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Permit {
    /// Counts the changes of position: what was begun before one says nothing after it.
    generation: u64,
}

/// One breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: Inner,
    generation: u64,
}

#[derive(Debug)]
enum Inner {
    Closed { failures: u32, window: Window },
    Open { until: Instant, pause: Duration },
    HalfOpen { probing: bool, successes: u32, pause: Duration },
}

impl Breaker {
    /// A closed one.
    pub(crate) fn new(now: Instant) -> Self {
        Self { state: Inner::closed(now), generation: 0 }
    }

    /// Where it stands at `now`.
    pub(crate) fn state(&self, now: Instant) -> State {
        match self.state {
            Inner::Closed { .. } => State::Closed,
            Inner::Open { until, .. } if now < until => State::Open,
            Inner::Open { .. } | Inner::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Where it was left, whatever the time is by now.
    pub(crate) const fn last_state(&self) -> State {
        match self.state {
            Inner::Closed { .. } => State::Closed,
            Inner::HalfOpen { .. } => State::HalfOpen,
            Inner::Open { .. } => State::Open,
        }
    }

    /// Asks for leave to make a call.
    ///
    /// # Errors
    /// How long to wait at least before asking again.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Permit, Duration> {
        if let Inner::Open { until, pause } = self.state {
            if now < until {
                return Err(until - now);
            }
            self.change(Inner::HalfOpen { probing: false, successes: 0, pause });
        }
        match &mut self.state {
            Inner::HalfOpen { probing: true, .. } => return Err(Duration::from_secs(1)),
            Inner::HalfOpen { probing, .. } => *probing = true,
            Inner::Closed { .. } | Inner::Open { .. } => {}
        }
        Ok(Permit { generation: self.generation })
    }

    /// Says how a call ended. `chance`, from 0 to 1, spreads the pauses.
    pub(crate) fn record(&mut self, permit: &Permit, signal: Signal, now: Instant, chance: f64) {
        if permit.generation != self.generation {
            return;
        }
        let opens = match &mut self.state {
            Inner::Closed { failures, window } => {
                window.count(if signal == Signal::Success { SUCCESSES } else { FAILURES }, now);
                *failures = match signal {
                    Signal::Success => 0,
                    Signal::Failure => *failures + 1,
                };
                let opens = *failures >= CONSECUTIVE_FAILURES || is_bad(window, now);
                opens.then_some(FIRST_PAUSE)
            }
            Inner::HalfOpen { probing, successes, pause } => {
                *probing = false;
                if signal == Signal::Success {
                    *successes += 1;
                    if *successes >= PROBES {
                        self.change(Inner::closed(now));
                    }
                    return;
                }
                Some((*pause * 2).min(LONGEST_PAUSE))
            }
            Inner::Open { .. } => None,
        };
        if let Some(pause) = opens {
            let until = now + pause.mul_f64(1.0 + JITTER * (2.0 * chance - 1.0));
            self.change(Inner::Open { until, pause });
        }
    }

    /// Gives a permit back whose call said nothing about the worker: its client went away, say.
    pub(crate) fn abandon(&mut self, permit: &Permit) {
        if let Inner::HalfOpen { probing, .. } = &mut self.state
            && permit.generation == self.generation
        {
            *probing = false;
        }
    }

    fn change(&mut self, state: Inner) {
        self.state = state;
        self.generation += 1;
    }
}

impl Inner {
    fn closed(now: Instant) -> Self {
        Self::Closed { failures: 0, window: Window::new(now) }
    }
}

/// The counts of a [`Window`].
const SUCCESSES: usize = 0;
const FAILURES: usize = 1;

fn is_bad(window: &Window, now: Instant) -> bool {
    let [successes, failures] = window.counts(now);
    successes + failures >= MIN_CALLS && successes < failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What can happen to a breaker.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Wait(u64),
        Ask,
        Settle(usize, Signal),
        Abandon(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let signal = prop_oneof![
            3 => Just(Signal::Failure),
            3 => Just(Signal::Success),
        ];
        prop_oneof![
            2 => prop_oneof![0_u64..400, 1000_u64..40_000].prop_map(Step::Wait),
            6 => Just(Step::Ask),
            6 => (0_usize..4, signal).prop_map(|(which, signal)| Step::Settle(which, signal)),
            1 => (0_usize..4).prop_map(Step::Abandon),
        ]
    }

    /// The rules in the words of the design, the whole history kept: slow, and nothing like the breaker.
    struct Model {
        /// Signals since it last closed, with their times since then.
        history: Vec<(Duration, Signal)>,
        closed_at: Duration,
        open_until: Option<Duration>,
        openings: u32,
        probes: Vec<Signal>,
        probing: bool,
        generation: u64,
    }

    impl Model {
        fn admit(&mut self, now: Duration) -> Option<u64> {
            match self.open_until {
                None => Some(self.generation),
                Some(until) if now < until => None,
                Some(_) if self.probing => None,
                Some(_) => {
                    if self.probes.is_empty() && self.generation % 2 == 1 {
                        self.generation += 1;
                    }
                    self.probing = true;
                    Some(self.generation)
                }
            }
        }

        fn open(&mut self, now: Duration) {
            let pause = Duration::from_secs((2_u64 << self.openings.min(10)).min(30));
            (self.open_until, self.openings) = (Some(now + pause), self.openings + 1);
            (self.probes, self.probing, self.generation) = (Vec::new(), false, self.generation + 1);
        }

        fn record(&mut self, generation: u64, signal: Signal, now: Duration) {
            if generation != self.generation {
                return;
            }
            if self.open_until.is_some() {
                self.probing = false;
                self.probes.push(signal);
                if signal != Signal::Success {
                    self.open(now);
                } else if self.probes.len() == 3 {
                    (self.open_until, self.openings) = (None, 0);
                    (self.history, self.probes, self.generation) =
                        (Vec::new(), Vec::new(), self.generation + 2);
                    self.closed_at = now;
                }
                return;
            }
            let since = now - self.closed_at;
            self.history.push((since, signal));
            let latest = self.history.iter().rev().map(|(_, signal)| *signal);
            let row = latest.take_while(|signal| *signal == Signal::Failure).count();
            let recent: Vec<Signal> = self
                .history
                .iter()
                .filter(|(at, _)| at.as_secs() + 10 > since.as_secs())
                .map(|(_, signal)| *signal)
                .collect();
            let good = recent.iter().filter(|signal| **signal == Signal::Success).count();
            if row >= 5 || (recent.len() >= 20 && good * 2 < recent.len()) {
                self.open(now);
            }
        }
    }

    proptest! {
        /// Whatever happens, the breaker lets through what the model does, and at most one probe at a time.
        #[test]
        fn does_what_the_rules_say(steps in proptest::collection::vec(step(), 1..400)) {
            let born = Instant::now();
            let mut breaker = Breaker::new(born);
            let mut model = Model {
                history: Vec::new(), closed_at: Duration::ZERO, open_until: None, openings: 0, probes: Vec::new(), probing: false, generation: 0,
            };
            let mut now = Duration::ZERO;
            let mut calls: Vec<(Permit, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                    Step::Ask => {
                        let (permit, expected) = (breaker.admit(born + now), model.admit(now));
                        prop_assert_eq!(permit.is_ok(), expected.is_some(), "at {:?}", now);
                        calls.extend(permit.ok().zip(expected));
                    }
                    Step::Settle(which, signal) if which < calls.len() => {
                        let (permit, generation) = calls.remove(which);
                        breaker.record(&permit, signal, born + now, 0.5);
                        model.record(generation, signal, now);
                    }
                    Step::Abandon(which) if which < calls.len() => {
                        let (permit, generation) = calls.remove(which);
                        breaker.abandon(&permit);
                        if generation == model.generation {
                            model.probing = false;
                        }
                    }
                    Step::Settle(..) | Step::Abandon(_) => {}
                }
                let expected = match model.open_until {
                    None => State::Closed,
                    Some(until) if now < until => State::Open,
                    Some(_) => State::HalfOpen,
                };
                prop_assert_eq!(breaker.state(born + now), expected, "at {:?}", now);
            }
        }
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_are_spread() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..CONSECUTIVE_FAILURES {
            let permit = breaker.admit(now).unwrap();
            breaker.record(&permit, Signal::Failure, now, 0.5);
        }
        for expected in [2, 4, 8, 16, 30, 30] {
            assert_eq!(breaker.admit(now), Err(Duration::from_secs(expected)));
            now += Duration::from_secs(expected);
            let probe = breaker.admit(now).unwrap();
            breaker.record(&probe, Signal::Failure, now, 0.5);
        }
        for (chance, expected) in [(0.0, 24), (1.0, 36)] {
            now += Duration::from_secs(60);
            let probe = breaker.admit(now).unwrap();
            breaker.record(&probe, Signal::Failure, now, chance);
            assert_eq!(breaker.admit(now), Err(Duration::from_secs(expected)));
        }
    }

    #[test]
    fn an_abandoned_probe_makes_room_for_the_next() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..CONSECUTIVE_FAILURES {
            let permit = breaker.admit(now).unwrap();
            breaker.record(&permit, Signal::Failure, now, 0.5);
        }
        now += FIRST_PAUSE;
        let probe = breaker.admit(now).unwrap();
        assert!(breaker.admit(now).is_err(), "one probe at a time");
        breaker.abandon(&probe);
        assert!(breaker.admit(now).is_ok());
    }
}
