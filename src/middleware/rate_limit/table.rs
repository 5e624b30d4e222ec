//! The buckets of one `rateLimit`, one a source.
//!
//! Invariants: at most [`MAX_SOURCES`] buckets at a time, whatever clients send; a bucket is dropped early only when
//! the table is at its bound, and then the ones go that are nearest to full; the request of a known source takes a
//! shared lock for the time of a look-up and never waits for the control plane.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::gcra::{Cell, Decision, Limit};
use crate::middleware::source::Source;

/// Sources that are known at a time, as in Traefik.
pub const MAX_SOURCES: usize = 65_536;

const SHARDS: usize = 64;
const SHARD_CAPACITY: usize = MAX_SOURCES / SHARDS;
/// Full buckets are looked for when a new source comes, at most this often.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Buckets by source.
#[derive(Debug)]
pub struct Table {
    limit: Limit,
    epoch: Instant,
    hasher: std::hash::RandomState,
    shards: Box<[RwLock<Shard>]>,
}

#[derive(Debug, Default)]
struct Shard {
    cells: HashMap<Box<[u8]>, Cell>,
    swept_at: Duration,
}

impl Table {
    /// An empty table: each source starts with a full bucket.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        Self {
            limit,
            epoch: Instant::now(),
            hasher: std::hash::RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    /// Takes a token from the bucket of a source.
    #[must_use]
    pub fn take(&self, source: &Source<'_>) -> Decision {
        let now = self.epoch.elapsed();
        source.with_key(|key| self.take_at(key, now))
    }

    /// Buckets that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).cells.len())
            .sum()
    }

    /// Whether no source is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take_at(&self, key: &[u8], now: Duration) -> Decision {
        use std::hash::BuildHasher as _;

        let shard = &self.shards[usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)];
        if let Some(cell) = shard.read().unwrap_or_else(PoisonError::into_inner).cells.get(key) {
            return cell.take(&self.limit, now);
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        shard.make_room(now);
        shard.cells.entry(key.into()).or_default().take(&self.limit, now)
    }
}

impl Shard {
    fn make_room(&mut self, now: Duration) {
        let at_capacity = self.cells.len() >= SHARD_CAPACITY;
        if at_capacity || now.saturating_sub(self.swept_at) >= SWEEP_EVERY {
            self.swept_at = now;
            // A full bucket is what its source would get anew.
            self.cells.retain(|_, cell| cell.full_at() > now);
        }
        if self.cells.len() >= SHARD_CAPACITY {
            // A sixteenth at once, so that a flood of new sources pays for one search in sixty-four insertions.
            let mut times: Vec<_> = self.cells.values().map(Cell::full_at).collect();
            let (_, limit, _) = times.select_nth_unstable(SHARD_CAPACITY / 16);
            let limit = *limit;
            let mut excess = SHARD_CAPACITY / 16;
            self.cells.retain(|_, cell| {
                let goes = excess > 0 && cell.full_at() <= limit;
                excess -= usize::from(goes);
                !goes
            });
        }
        if self.cells.capacity() > 64 && self.cells.len() < self.cells.capacity() / 8 {
            self.cells.shrink_to(self.cells.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(average: i64, seconds: u64, burst: i64) -> Table {
        Table::new(Limit::new(average, Duration::from_secs(seconds), burst).unwrap())
    }

    #[test]
    fn sources_have_their_own_buckets() {
        let table = table(1, 60, 1);
        for source in ["a", "b"] {
            assert_eq!(
                table.take(&Source::Text(source.as_bytes())),
                Decision::Pass(Duration::ZERO)
            );
            assert!(matches!(
                table.take(&Source::Text(source.as_bytes())),
                Decision::Refuse(_)
            ));
        }
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn the_number_of_sources_is_bounded() {
        let table = table(1, 3600, 1);
        for number in 0..3 * MAX_SOURCES {
            let _ = table.take_at(&number.to_le_bytes(), Duration::ZERO);
        }
        assert!(table.len() <= MAX_SOURCES);
        assert!(table.len() > MAX_SOURCES / 2);
    }

    #[test]
    fn a_busy_source_outlives_a_flood_of_quiet_ones() {
        let table = table(1, 60, 10);
        for _ in 0..11 {
            let _ = table.take_at(b"busy", Duration::ZERO);
        }
        for number in 0..2 * MAX_SOURCES {
            let _ = table.take_at(&number.to_le_bytes(), Duration::ZERO);
        }
        assert!(matches!(table.take_at(b"busy", Duration::ZERO), Decision::Refuse(_)));
    }

    #[test]
    fn full_buckets_are_swept() {
        let table = table(10, 1, 1);
        for number in 0..10_000_u32 {
            let _ = table.take_at(&number.to_le_bytes(), Duration::ZERO);
        }
        for number in 0..10_000_u32 {
            let _ = table.take_at(&(number ^ 0xffff_0000).to_le_bytes(), SWEEP_EVERY);
        }
        assert_eq!(table.len(), 10_000);
    }

    #[test]
    fn threads_share_a_source_exactly() {
        let table = table(1, 3600, 500);
        let passed: usize = std::thread::scope(|scope| {
            let take = |_| {
                scope.spawn(|| {
                    (0..1_000_u32)
                        .filter(|number| {
                            let _ = table.take_at(&number.to_le_bytes(), Duration::ZERO);
                            matches!(table.take_at(b"shared", Duration::ZERO), Decision::Pass(_))
                        })
                        .count()
                })
            };
            let workers: Vec<_> = (0..4).map(take).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(passed, 500);
    }
}
