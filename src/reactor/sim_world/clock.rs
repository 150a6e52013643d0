//! The monotonic clock of a node: a function of the world's time.
//!
//! It is a straight line from where it was when its rate last changed, rounded down to a nanosecond: continuous, and
//! never backwards. [`Clock::when`] is its inverse, rounded so that a clock asked at that time says no less: a driver
//! that sleeps until then finds the timer due.

use crate::reactor::timer::Nanos;

const MILLION: u128 = 1_000_000;

/// A clock that may be too fast or too slow; at first it is neither.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::reactor) struct Clock {
    /// The world's time since which it has its rate.
    since: Nanos,
    /// What it said then.
    said: Nanos,
    /// So many parts of a million it is too fast.
    drift_ppm: i32,
}

impl Clock {
    /// What it counts while a million passes.
    fn rate(self) -> u128 {
        (1_000_000 + i64::from(self.drift_ppm))
            .unsigned_abs()
            .into()
    }

    /// What it says when the world's time is `now`.
    pub(in crate::reactor) fn says(self, now: Nanos) -> Nanos {
        if self.drift_ppm == 0 {
            return self.said.saturating_add(now.saturating_sub(self.since));
        }
        let passed = u128::from(now.saturating_sub(self.since));
        (self.said).saturating_add(saturated(passed * self.rate() / MILLION))
    }

    /// The first time of the world at which it says `at` or more; no sooner than its rate changed.
    pub(in crate::reactor) fn when(self, at: Nanos) -> Nanos {
        if self.drift_ppm == 0 {
            return self.since.saturating_add(at.saturating_sub(self.said));
        }
        let ahead = u128::from(at.saturating_sub(self.said));
        (self.since).saturating_add(saturated((ahead * MILLION).div_ceil(self.rate())))
    }

    /// Gives it another rate from `now` on.
    pub(in crate::reactor) fn set_drift(&mut self, now: Nanos, drift_ppm: i32) {
        *self = Clock {
            since: now,
            said: self.says(now),
            drift_ppm,
        };
    }
}

fn saturated(nanos: u128) -> Nanos {
    Nanos::try_from(nanos).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_continuous_and_its_inverse_is_never_too_soon() {
        let seed = 1;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut step = move || {
            let most = [3, 1_000, 3_000_000_000][rng.usize(..3)];
            (rng.u64(..most), rng.i32(-200_000..=200_000))
        };
        let (mut clock, mut now, mut said) = (Clock::default(), 0, 0);
        for round in 0..20_000 {
            now += step().0;
            assert!(clock.says(now) >= said, "seed {seed}, round {round}");
            said = clock.says(now);
            let at = said + step().0;
            let when = clock.when(at);
            assert!(clock.says(when) >= at, "seed {seed}, round {round}");
            let before = when.checked_sub(1).filter(|before| *before >= now);
            let is_first = before.is_none_or(|before| clock.says(before) < at);
            assert!(is_first, "seed {seed}, round {round}");
            if round % 4 == 0 {
                clock.set_drift(now, step().1);
                assert_eq!(clock.says(now), said, "seed {seed}, round {round}");
            }
        }
        clock.set_drift(now, -200_000);
        assert_eq!(clock.says(now + 10) - said, 8);
        assert_eq!(clock.when(Nanos::MAX), Nanos::MAX);
    }

    #[test]
    fn a_clock_that_never_drifted_says_the_time() {
        let clock = Clock::default();
        for time in [0, 1, 999_999, 1_000_001, Nanos::MAX] {
            assert_eq!((clock.says(time), clock.when(time)), (time, time));
        }
    }
}
