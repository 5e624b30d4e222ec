//! The token bucket of one source, as the generic cell rate algorithm (ITU-T I.371): one number, the theoretical
//! arrival time of the next request, instead of tokens and a time stamp.
//!
//! It decides as Go's `x/time/rate` does in Traefik's hands: a request takes a token; when none is left, it waits
//! for the next one if that takes no longer than [`Limit::max_delay`], else it is refused and takes nothing.
//!
//! Invariants: no clock is read here; a refused request changes nothing; each decision is one compare-and-swap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time is counted in sixteenths of a nanosecond (36 years in 64 bits), so that rates up to 16 G/s keep their sense.
const TICKS_PER_NANO: u128 = 16;

/// Times are cut to nine years, so that sums of them stay far from the end of 64 bits.
const LONGEST: u128 = u64::MAX as u128 / 4;

/// The longest wait below one request a second.
const MAX_SLOW_DELAY: Duration = Duration::from_millis(500);

/// The numbers of one `rateLimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Time that one token takes to come back, ticks.
    interval: u128,
    /// Time that all tokens take to come back, ticks.
    capacity: u128,
    max_delay: u128,
}

impl Limit {
    /// `average` requests per `period` with up to `burst` at once, or `None` for no limit (`average` 0 or less).
    /// A `period` of 0 means one second, a `burst` below 1 means 1, as in Traefik.
    #[must_use]
    pub fn new(average: i64, period: Duration, burst: i64) -> Option<Self> {
        let average = u128::try_from(average).ok().filter(|average| *average > 0)?;
        let period = if period.is_zero() {
            Duration::from_secs(1)
        } else {
            period
        };
        let interval = (period.as_nanos() * TICKS_PER_NANO / average).min(LONGEST);
        let burst = u128::try_from(burst).unwrap_or(0).max(1);
        // As in Traefik: half the interval, of the rate cut to a whole number; half a second below one a second.
        let per_second = average.saturating_mul(1_000_000_000) / period.as_nanos().max(1);
        let max_delay = match u64::try_from(per_second).unwrap_or(u64::MAX) {
            0 => MAX_SLOW_DELAY,
            per_second => Duration::from_nanos(1_000_000_000 / per_second.saturating_mul(2)),
        };
        Some(Self {
            interval,
            capacity: (interval * burst).min(LONGEST),
            max_delay: max_delay.as_nanos() * TICKS_PER_NANO,
        })
    }

    /// The longest wait that a request is made to wait instead of being refused.
    #[must_use]
    pub fn max_delay(&self) -> Duration {
        to_duration(self.max_delay)
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has its token, after this wait (zero at most times).
    Pass(Duration),
    /// It has none; one more would be there after this time.
    Refuse(Duration),
}

/// One bucket. All times are since an epoch of the caller's choice.
#[derive(Debug, Default)]
pub struct Cell {
    /// When all tokens are back, ticks; in the past: the bucket is full.
    full_at: AtomicU64,
}

impl Cell {
    /// Takes a token, if the limit has one at `now`.
    #[must_use]
    pub fn take(&self, limit: &Limit, now: Duration) -> Decision {
        let now = ticks(now);
        let mut seen = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = u128::from(seen).max(now) + limit.interval;
            let wait = next.saturating_sub(now + limit.capacity);
            // A bucket that would be full only after the end of time has no more tokens to give.
            let Some(new) = u64::try_from(next).ok().filter(|_| wait <= limit.max_delay) else {
                return Decision::Refuse(to_duration(wait));
            };
            match self
                .full_at
                .compare_exchange_weak(seen, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Decision::Pass(to_duration(wait)),
                Err(other) => seen = other,
            }
        }
    }

    /// When the bucket is (or was) full again: the smaller, the longer its source has been quiet.
    #[must_use]
    pub fn full_at(&self) -> Duration {
        to_duration(u128::from(self.full_at.load(Ordering::Relaxed)))
    }
}

fn ticks(time: Duration) -> u128 {
    time.as_nanos() * TICKS_PER_NANO
}

/// Rounded up, so that a request that waits as long as it is told to gets its token.
fn to_duration(ticks: u128) -> Duration {
    Duration::from_nanos(u64::try_from(ticks.div_ceil(TICKS_PER_NANO)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Duration = Duration::ZERO;
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn no_average_is_no_limit() {
        assert_eq!(Limit::new(0, MINUTE, 1), None);
        assert_eq!(Limit::new(-1, MINUTE, 1), None);
    }

    #[test]
    fn a_burst_then_one_per_interval() {
        let (limit, cell) = (Limit::new(1, MINUTE, 3).unwrap(), Cell::default());
        for _ in 0..3 {
            assert_eq!(cell.take(&limit, ZERO), Decision::Pass(ZERO));
        }
        assert_eq!(cell.take(&limit, ZERO), Decision::Refuse(MINUTE));
        let later = Duration::from_millis(20_000);
        assert_eq!(
            cell.take(&limit, later),
            Decision::Refuse(Duration::from_secs(40)),
            "a refusal takes nothing"
        );
        assert_eq!(cell.take(&limit, MINUTE), Decision::Pass(ZERO));
        assert_eq!(cell.take(&limit, MINUTE), Decision::Refuse(MINUTE));
        for _ in 0..3 {
            assert_eq!(
                cell.take(&limit, 60 * MINUTE),
                Decision::Pass(ZERO),
                "full again, and no fuller"
            );
        }
        assert_eq!(cell.take(&limit, 60 * MINUTE), Decision::Refuse(MINUTE));
    }

    #[test]
    fn short_waits_are_slept() {
        let (limit, cell) = (Limit::new(2, Duration::from_secs(1), 1).unwrap(), Cell::default());
        assert_eq!(limit.max_delay(), Duration::from_millis(250));
        assert_eq!(cell.take(&limit, ZERO), Decision::Pass(ZERO));
        assert_eq!(
            cell.take(&limit, Duration::from_millis(249)),
            Decision::Refuse(Duration::from_millis(251))
        );
        assert_eq!(
            cell.take(&limit, Duration::from_millis(330)),
            Decision::Pass(Duration::from_millis(170))
        );
        assert_eq!(
            cell.take(&limit, Duration::from_millis(330)),
            Decision::Refuse(Duration::from_millis(670))
        );
    }

    #[test]
    fn longest_waits() {
        let delay = |average, period| Limit::new(average, period, 1).unwrap().max_delay();
        assert_eq!(delay(1, MINUTE), MAX_SLOW_DELAY);
        assert_eq!(delay(1, ZERO), MAX_SLOW_DELAY, "no period is one second");
        assert_eq!(delay(100, Duration::from_secs(1)), Duration::from_millis(5));
        assert_eq!(
            delay(3, Duration::from_secs(2)),
            MAX_SLOW_DELAY,
            "1.5 a second counts as 1"
        );
        assert_eq!(delay(10_000_000_000, Duration::from_secs(1)), ZERO);
    }

    #[test]
    fn a_burst_below_one_is_one() {
        assert_eq!(Limit::new(1, MINUTE, 0), Limit::new(1, MINUTE, 1));
        assert_eq!(Limit::new(1, MINUTE, -3), Limit::new(1, MINUTE, 1));
    }

    #[test]
    fn thirds_do_not_drift() {
        let (limit, cell) = (Limit::new(3, Duration::from_secs(1), 1).unwrap(), Cell::default());
        let takes = (0..30_000).map(|ms| cell.take(&limit, Duration::from_millis(ms)));
        let passed = takes.filter(|decision| matches!(decision, Decision::Pass(_))).count();
        assert_eq!(passed, 91, "one at once, ninety in thirty seconds, the last one waits");
    }

    #[test]
    fn extreme_numbers() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for average in [1, i64::MAX] {
            for period in [Duration::from_nanos(1), year, Duration::MAX] {
                for burst in [i64::MIN, 1, i64::MAX] {
                    let limit = Limit::new(average, period, burst).unwrap();
                    let cell = Cell::default();
                    for now in [ZERO, year, 30 * year] {
                        let _ = cell.take(&limit, now);
                    }
                }
            }
        }
        // More burst than the longest time holds is cut, not without a limit.
        let (limit, cell) = (Limit::new(1, 3 * year, 1_000).unwrap(), Cell::default());
        let passed = (0..1_000)
            .filter(|_| matches!(cell.take(&limit, ZERO), Decision::Pass(_)))
            .count();
        assert_eq!(passed, 3);
    }

    #[test]
    fn threads_share_the_tokens_exactly() {
        let (limit, cell) = (Limit::new(1, MINUTE, 1_000).unwrap(), Cell::default());
        let passed: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1_000)
                            .filter(|_| matches!(cell.take(&limit, ZERO), Decision::Pass(_)))
                            .count()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(passed, 1_000);
    }
}
