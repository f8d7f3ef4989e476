//! Whether, and after how long, a command is run again: arithmetic without a clock and without dice.
//!
//! The caller tells how a run ended, when, and hands over the dice: numbers in `[0, 1)`. Nothing here waits.

use std::time::Duration;

/// When a [`Supervisor`](crate::Supervisor) runs its command again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartPolicy {
    /// However it ended.
    Always,
    /// After a crash: a code that is not accepted, a signal, a timeout, a start that may succeed when tried again.
    OnCrash,
    /// Not at all: one run.
    Never,
}

/// Why a supervision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// [`stop_when`](crate::Supervisor::stop_when) said so.
    Predicate,
    /// The [policy](RestartPolicy) wants no further run.
    PolicySatisfied,
    /// [`max_restarts`](crate::Supervisor::max_restarts) were made.
    RestartsExhausted,
}

/// The rules of one supervision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rules {
    pub(crate) policy: RestartPolicy,
    pub(crate) max_restarts: Option<u32>,
    pub(crate) base: Duration,
    pub(crate) factor: f64,
    pub(crate) cap: Duration,
    pub(crate) jitter: bool,
    /// Without one the storm gate is always open.
    pub(crate) storm_pause: Option<Duration>,
    pub(crate) half_life: Duration,
    pub(crate) threshold: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            policy: RestartPolicy::OnCrash,
            max_restarts: None,
            base: Duration::from_millis(200),
            factor: 2.0,
            cap: Duration::from_secs(30),
            jitter: true,
            storm_pause: None,
            half_life: Duration::from_secs(30),
            threshold: 5.0,
        }
    }
}

impl Rules {
    /// What is wrong with the numbers, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let numbers = [("factor of the back-off", self.factor), ("failure threshold", self.threshold)];
        for (name, number) in numbers {
            if !(number.is_finite() && number > 0.0) {
                return Err(format!("the {name} is {number}: it must be a finite number above zero"));
            }
        }
        let durations = [
            ("base of the back-off", Some(self.base)),
            ("maximum of the back-off", Some(self.cap)),
            ("half-life of failures", Some(self.half_life)),
            ("storm pause", self.storm_pause),
        ];
        for (name, duration) in durations {
            if duration == Some(Duration::ZERO) {
                return Err(format!("the {name} is zero: it must be a time above zero"));
            }
        }
        Ok(())
    }

    /// min(base * factor^n, cap), and the jitter inside of the cap.
    pub(crate) fn delay(&self, n: u32, dice: f64) -> Duration {
        let seconds = self.base.as_secs_f64() * self.factor.powf(f64::from(n));
        shorter(self.jittered(seconds.min(self.cap.as_secs_f64()), dice), self.cap)
    }

    /// The pause of a storm. Never longer than 1.5 times what was asked for.
    pub(crate) fn pause(&self, pause: Duration, dice: f64) -> Duration {
        shorter(self.jittered(pause.as_secs_f64(), dice), pause.saturating_mul(2))
    }

    /// A number of seconds times [0.5, 1.5).
    fn jittered(&self, seconds: f64, dice: f64) -> f64 {
        if self.jitter { seconds * (0.5 + dice) } else { seconds }
    }
}

/// The seconds, or the limit if that is shorter or the seconds are more than a duration holds.
fn shorter(seconds: f64, limit: Duration) -> Duration {
    Duration::try_from_secs_f64(seconds).map_or(limit, |duration| duration.min(limit))
}

/// One run that ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ended {
    /// Whether it is a failure.
    pub(crate) crashed: bool,
    /// Whether the user's predicate is satisfied.
    pub(crate) satisfied: bool,
    /// From its start to its end.
    pub(crate) lived: Duration,
    /// When, since the supervision began.
    pub(crate) at: Duration,
}

/// What comes after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// No further run.
    Stop(StopReason),
    /// Wait for the pause of a storm if there is one, then for the delay, then run again.
    Again { pause: Option<Duration>, delay: Duration },
}

/// A supervision so far.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Restarts {
    rules: Rules,
    made: u32,
    storm_pauses: u32,
    /// Restarts since the last healthy run.
    streak: u32,
    score: f64,
    last_failure: Option<Duration>,
}

impl Restarts {
    pub(crate) fn new(rules: Rules) -> Self {
        Restarts { rules, made: 0, storm_pauses: 0, streak: 0, score: 0.0, last_failure: None }
    }

    /// How many restarts were ordered.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    /// How often the storm gate was shut.
    pub(crate) fn storm_pauses(&self) -> u32 {
        self.storm_pauses
    }

    /// Predicate, policy, budget, storm gate, back-off: in this order. `dice` are two numbers in [0, 1).
    pub(crate) fn after(&mut self, run: Ended, dice: [f64; 2]) -> Next {
        if run.satisfied {
            return Next::Stop(StopReason::Predicate);
        }
        let again = match self.rules.policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnCrash => run.crashed,
            RestartPolicy::Never => false,
        };
        if !again {
            return Next::Stop(StopReason::PolicySatisfied);
        }
        if self.rules.max_restarts.is_some_and(|budget| self.made >= budget) {
            return Next::Stop(StopReason::RestartsExhausted);
        }
        self.made = self.made.saturating_add(1);
        let pause = if run.crashed { self.storm_gate(run.at, dice[0]) } else { None };
        if !run.crashed || run.lived >= self.rules.cap {
            self.streak = 0;
        }
        let delay = self.rules.delay(self.streak, dice[1]);
        self.streak = self.streak.saturating_add(1);
        Next::Again { pause, delay }
    }

    /// Count a failure; the pause, if the failures come too thick.
    fn storm_gate(&mut self, at: Duration, dice: f64) -> Option<Duration> {
        let pause = self.rules.storm_pause?;
        let passed = self.last_failure.map_or(Duration::ZERO, |last| at.saturating_sub(last));
        self.last_failure = Some(at);
        self.score = decayed(self.score, passed, self.rules.half_life) + 1.0;
        if self.score <= self.rules.threshold {
            return None;
        }
        self.score = 0.0;
        self.storm_pauses = self.storm_pauses.saturating_add(1);
        Some(self.rules.pause(pause, dice))
    }
}

/// What is left of a score after some time.
fn decayed(score: f64, passed: Duration, half_life: Duration) -> f64 {
    score * (-passed.as_secs_f64() / half_life.as_secs_f64()).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn crash(at: Duration) -> Ended {
        Ended { crashed: true, satisfied: false, lived: Duration::ZERO, at }
    }

    /// Rules without dice.
    fn plain() -> Rules {
        Rules { jitter: false, ..Rules::default() }
    }

    fn delays(restarts: &mut Restarts, runs: impl IntoIterator<Item = Ended>) -> Vec<Duration> {
        let delay = |run| match restarts.after(run, [0.0, 0.0]) {
            Next::Again { delay, .. } => delay,
            Next::Stop(reason) => panic!("stopped: {reason:?}"),
        };
        runs.into_iter().map(delay).collect()
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let mut restarts = Restarts::new(plain());
        let expected = [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000].map(ms);
        assert_eq!(delays(&mut restarts, [crash(Duration::ZERO); 10]), expected);
        assert_eq!(restarts.made(), 10);
    }

    #[test]
    fn a_healthy_run_starts_them_anew() {
        let long = Ended { lived: Duration::from_secs(30), ..crash(Duration::ZERO) };
        let good = Ended { crashed: false, ..crash(Duration::ZERO) };
        let bad = crash(Duration::ZERO);
        let mut restarts = Restarts::new(Rules { policy: RestartPolicy::Always, ..plain() });
        let runs = [bad, bad, long, bad, good, bad, Ended { lived: Duration::from_secs(29), ..bad }];
        assert_eq!(delays(&mut restarts, runs), [200, 400, 200, 400, 200, 400, 800].map(ms));
    }

    #[test]
    fn predicate_then_policy_then_budget() {
        let stop = |rules, run| match Restarts::new(rules).after(run, [0.0, 0.0]) {
            Next::Stop(reason) => Some(reason),
            Next::Again { .. } => None,
        };
        let bad = crash(Duration::ZERO);
        let good = Ended { crashed: false, ..bad };
        let rules = |policy, max_restarts| Rules { policy, max_restarts, ..plain() };
        let satisfied = |run| Ended { satisfied: true, ..run };
        let never = rules(RestartPolicy::Never, Some(0));
        assert_eq!(stop(never, satisfied(bad)), Some(StopReason::Predicate));
        assert_eq!(stop(never, bad), Some(StopReason::PolicySatisfied));
        let on_crash = rules(RestartPolicy::OnCrash, Some(0));
        assert_eq!(stop(on_crash, good), Some(StopReason::PolicySatisfied));
        assert_eq!(stop(on_crash, bad), Some(StopReason::RestartsExhausted));
        let always = rules(RestartPolicy::Always, Some(0));
        assert_eq!(stop(always, satisfied(good)), Some(StopReason::Predicate));
        assert_eq!(stop(always, good), Some(StopReason::RestartsExhausted));
        assert_eq!(stop(rules(RestartPolicy::Always, Some(1)), good), None);
        assert_eq!(stop(rules(RestartPolicy::OnCrash, None), bad), None);
    }

    /// With the defaults five failures in a moment are allowed, the sixth pauses, and the count begins anew.
    #[test]
    fn a_storm_pauses_and_is_forgotten() {
        let pause = Duration::from_secs(60);
        let mut restarts = Restarts::new(Rules { storm_pause: Some(pause), ..plain() });
        let pauses: Vec<bool> = (0..12)
            .map(|_| matches!(restarts.after(crash(Duration::ZERO), [0.0; 2]), Next::Again { pause: Some(p), .. } if p == pause))
            .collect();
        assert_eq!(pauses, [false, false, false, false, false, true].repeat(2));
        assert_eq!(restarts.storm_pauses(), 2);
    }

    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (1..u64::MAX).prop_map(Duration::from_nanos),
            (1..100_000u64).prop_map(ms),
            Just(Duration::MAX),
        ]
    }

    prop_compose! {
        fn rules()(
            base in durations(), cap in durations(), half_life in durations(), pause in durations(),
            factor in prop_oneof![1.0..10.0, Just(f64::MIN_POSITIVE), Just(f64::MAX)],
            threshold in 0.1..100.0, jitter in any::<bool>(),
        ) -> Rules {
            let policy = RestartPolicy::Always;
            let storm_pause = Some(pause);
            Rules { policy, max_restarts: None, base, factor, cap, jitter, storm_pause, half_life, threshold }
        }
    }

    proptest! {
        /// Whatever the numbers: no panic, no delay beyond the cap, and with jitter at least half of the plain delay.
        #[test]
        fn delays_stay_inside(rules in rules(), n in any::<u32>(), dice in 0.0..1.0) {
            prop_assert_eq!(rules.check(), Ok(()));
            let delay = rules.delay(n, dice);
            let plain = Rules { jitter: false, ..rules }.delay(n, dice);
            prop_assert!(delay <= rules.cap && plain <= rules.cap);
            prop_assert!(delay.as_secs_f64() >= plain.as_secs_f64() * 0.499 - 1e-9, "{:?} of {:?}", delay, plain);
            prop_assert!(delay.as_secs_f64() <= plain.as_secs_f64() * 1.501 + 1e-9, "{:?} of {:?}", delay, plain);
            if !rules.jitter {
                prop_assert_eq!(delay, plain);
            }
        }

        /// A factor of at least one never shortens the wait.
        #[test]
        fn delays_do_not_shrink(rules in rules(), n in 0..100u32) {
            let rules = Rules { jitter: false, factor: rules.factor.max(1.0), ..rules };
            prop_assert!(rules.delay(n, 0.0) <= rules.delay(n + 1, 0.0));
        }

        /// The score against the sum it stands for: each failure counts 2^(-age/half-life), and a trip forgets them all.
        #[test]
        fn the_gate_trips_by_the_decayed_sum(
            rules in rules(),
            gaps in proptest::collection::vec(prop_oneof![Just(0), 1..100_000u64], 1..60),
        ) {
            let rules = Rules { half_life: rules.half_life.clamp(ms(1), ms(1_000_000)), ..rules };
            let mut restarts = Restarts::new(rules);
            let (mut now, mut counted, mut trips) = (Duration::ZERO, Vec::new(), 0);
            for gap in gaps {
                now += ms(gap);
                counted.push(now);
                let age = |at: &Duration| (now - *at).as_secs_f64() / rules.half_life.as_secs_f64();
                let sum: f64 = counted.iter().map(|at| 0.5f64.powf(age(at))).sum();
                prop_assume!((sum - rules.threshold).abs() > 1e-6); // a matter of rounding
                let Next::Again { pause, .. } = restarts.after(crash(now), [0.0; 2]) else { panic!("stopped") };
                prop_assert_eq!(pause.is_some(), sum > rules.threshold);
                if pause.is_some() {
                    counted.clear();
                    trips += 1;
                }
                prop_assert_eq!(restarts.storm_pauses(), trips);
            }
        }
    }
}
