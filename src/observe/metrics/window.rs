//! A mean over a sliding window of time, in constant memory.

use std::time::{Duration, Instant};

/// How finely a window slides: a sample counts for the window's length and up to one part of this more.
const PARTS: u32 = 120;

/// A sliding mean. The clock is the caller's.
#[derive(Debug)]
pub struct Window {
    length: Duration,
    origin: Option<Instant>,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, Default)]
struct Part {
    tick: u64,
    sum: f64,
    count: u64,
}

impl Window {
    /// A window of this length, empty.
    pub fn new(length: Duration) -> Self {
        Self {
            length,
            origin: None,
            parts: Vec::new(),
        }
    }

    /// Adds a sample.
    pub fn add(&mut self, now: Instant, value: f64) {
        if self.origin.is_none() {
            self.origin = Some(now);
            self.parts = vec![Part::default(); PARTS as usize + 1];
        }
        let tick = self.tick(now);
        let index = (tick % self.parts.len() as u64) as usize;
        let part = &mut self.parts[index];
        if part.tick != tick {
            *part = Part {
                tick,
                ..Part::default()
            };
        }
        part.sum += value;
        part.count += 1;
    }

    /// Sum and number of the samples in the window that ends now.
    pub fn sum(&self, now: Instant) -> (f64, u64) {
        let tick = self.tick(now);
        let fresh = |part: &&Part| part.tick <= tick && tick - part.tick <= u64::from(PARTS);
        self.parts
            .iter()
            .filter(fresh)
            .fold((0.0, 0), |(sum, count), part| (sum + part.sum, count + part.count))
    }

    /// The mean of the window that ends now; `None` where it is empty.
    pub fn mean(&self, now: Instant) -> Option<f64> {
        let (sum, count) = self.sum(now);
        (count > 0).then(|| sum / count as f64)
    }

    fn tick(&self, now: Instant) -> u64 {
        let since = self
            .origin
            .map_or(Duration::ZERO, |origin| now.saturating_duration_since(origin));
        (since.as_nanos() / (self.length / PARTS).as_nanos().max(1)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_leave_after_the_length() {
        let mut window = Window::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(window.mean(at(0.0)), None);
        window.add(at(0.0), 2.0);
        window.add(at(30.0), 4.0);
        assert_eq!(window.mean(at(30.0)), Some(3.0));
        assert_eq!(window.mean(at(59.9)), Some(3.0));
        assert_eq!(window.mean(at(61.0)), Some(4.0));
        assert_eq!(window.mean(at(90.0)), Some(4.0));
        assert_eq!(window.mean(at(91.0)), None);
        window.add(at(1000.0), 8.0);
        assert_eq!(window.mean(at(1000.0)), Some(8.0));
    }

    #[test]
    fn memory_is_constant() {
        let mut window = Window::new(Duration::from_secs(60));
        let start = Instant::now();
        for n in 0..100_000 {
            window.add(start + Duration::from_millis(n), 1.0);
        }
        assert_eq!(window.parts.len(), PARTS as usize + 1);
        let (_, count) = window.sum(start + Duration::from_millis(99_999));
        assert!((60_000..=60_500).contains(&count), "{count}");
    }
}
