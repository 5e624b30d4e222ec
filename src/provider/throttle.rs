//! `providers.providersThrottleDuration`: at most one event in each period.
//!
//! The first change after a quiet period passes at once; what follows within the period waits for its end, and only
//! the last of it is sent. Pure: the caller brings the time.

use std::time::{Duration, Instant};

/// Holds back what comes too fast, keeping only the newest.
#[derive(Debug)]
pub struct Throttle<T> {
    period: Duration,
    last_sent: Option<Instant>,
    waiting: Option<T>,
}

impl<T> Throttle<T> {
    /// `period`: the least time between two sends; zero switches the throttle off. Traefik's default is 2 s.
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            last_sent: None,
            waiting: None,
        }
    }

    /// Puts `item` in line, in the place of what waited before.
    pub fn offer(&mut self, item: T) {
        self.waiting = Some(item);
    }

    /// What waits to be sent, if anything.
    pub fn waiting(&self) -> Option<&T> {
        self.waiting.as_ref()
    }

    /// Forgets what waited.
    pub fn withdraw(&mut self) -> Option<T> {
        self.waiting.take()
    }

    /// When [`Self::take`] will give something; `None` while nothing waits.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.waiting.as_ref()?;
        Some(self.last_sent.map_or(now, |sent| sent + self.period))
    }

    /// What may be sent now.
    pub fn take(&mut self, now: Instant) -> Option<T> {
        if self.due(now)? > now {
            return None;
        }
        self.last_sent = Some(now);
        self.waiting.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(2);

    #[test]
    fn first_change_passes_at_once() {
        let now = Instant::now();
        let mut throttle = Throttle::new(PERIOD);
        assert_eq!(throttle.due(now), None);
        throttle.offer(1);
        assert_eq!(throttle.take(now), Some(1));
        assert_eq!(throttle.take(now), None);
    }

    #[test]
    fn within_the_period_only_the_last_is_sent_and_it_is_sent() {
        let start = Instant::now();
        let mut throttle = Throttle::new(PERIOD);
        throttle.offer(1);
        assert_eq!(throttle.take(start), Some(1));
        for (i, ms) in [(2, 100), (3, 700), (4, 1900)] {
            let now = start + Duration::from_millis(ms);
            throttle.offer(i);
            assert_eq!(throttle.take(now), None);
            assert_eq!(throttle.due(now), Some(start + PERIOD));
        }
        assert_eq!(throttle.take(start + PERIOD), Some(4));
        assert_eq!(throttle.due(start + PERIOD), None);
    }

    #[test]
    fn after_a_quiet_period_the_next_change_passes_at_once() {
        let start = Instant::now();
        let mut throttle = Throttle::new(PERIOD);
        throttle.offer(1);
        throttle.take(start);
        let later = start + PERIOD * 3;
        throttle.offer(2);
        assert_eq!(throttle.take(later), Some(2));
    }

    #[test]
    fn zero_switches_it_off() {
        let now = Instant::now();
        let mut throttle = Throttle::new(Duration::ZERO);
        for i in 0..5 {
            throttle.offer(i);
            assert_eq!(throttle.take(now), Some(i));
        }
    }
}
