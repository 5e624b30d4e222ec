//! Native histograms: buckets that grow by 2^(1/8) each, so that every quantile is known to within 9 %, whatever the range
//! turns out to be.
//!
//! This is schema 3 of Prometheus' native histograms
//! (<https://prometheus.io/docs/specs/native_histograms/>): bucket `i` holds what is greater than 2^((i-1)/8) and at most
//! 2^(i/8). Only buckets that hold something take room. Two forms: [`NativeHistogram`] for one thread or a lock, and
//! `NativeCells` for a worker that counts while others read.
//!
//! Invariants: the number of buckets has a bound that no sample can pass, and no count goes back.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Each power of two is divided into 2^`SCHEMA` buckets.
pub const SCHEMA: i32 = 3;

/// 2^-20: what is at most this far from 0 is in the zero bucket. For a duration it is a microsecond; no model's accuracy
/// is told in smaller steps.
pub const ZERO_THRESHOLD: f64 = 1.0 / (1 << 20) as f64;

const PER_OCTAVE: i32 = 1 << SCHEMA;

/// 2^(j/8), rounded as Prometheus' own clients round it. All but the first are irrational: only a sample that is the very
/// double nearest to a bound could be on its wrong side, and a whole number of nanoseconds never is.
const BOUNDS: [f64; PER_OCTAVE as usize] = [
    1.0,
    1.0905077326652577,
    1.189207115002721,
    1.2968395546510096,
    std::f64::consts::SQRT_2,
    1.5422108254079407,
    1.681792830507429,
    1.8340080864093424,
];

/// How many of [`BOUNDS`] are below the least number of each sixteenth of 1..2. A sixteenth is narrower than a bucket, so
/// it has at most one bound inside and one comparison finds the rest.
const BELOW: [u8; 16] = [0, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7, 8, 8];

/// The bucket of a positive, normal number.
fn bucket(value: f64) -> i32 {
    const MANTISSA: u32 = f64::MANTISSA_DIGITS - 1;
    let bits = value.to_bits();
    let mantissa = bits & ((1 << MANTISSA) - 1);
    let octave = (bits >> MANTISSA) as i32 - (f64::MAX_EXP - 1);
    let below = usize::from(BELOW[(mantissa >> (MANTISSA - 4)) as usize]);
    let fraction = f64::from_bits(mantissa | 1.0_f64.to_bits());
    let more = BOUNDS.get(below).is_some_and(|bound| fraction > *bound);
    octave * PER_OCTAVE + below as i32 + i32::from(more)
}

/// A histogram that one thread owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NativeHistogram {
    zero: u64,
    positive: Buckets,
    negative: Buckets,
}

impl NativeHistogram {
    /// Counts a sample. What is no finite number is none.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if value.abs() <= ZERO_THRESHOLD {
            self.zero += 1;
        } else if value > 0.0 {
            self.positive.add(bucket(value), 1);
        } else {
            self.negative.add(bucket(-value), 1);
        }
    }

    /// The number of samples.
    pub fn count(&self) -> u64 {
        self.zero + self.positive.count() + self.negative.count()
    }

    /// The samples that are at most [`ZERO_THRESHOLD`] from 0.
    pub(super) fn zero(&self) -> u64 {
        self.zero
    }

    /// The buckets of positive samples.
    pub(super) fn positive(&self) -> &Buckets {
        &self.positive
    }

    /// The buckets of negative samples, by their distance from 0.
    pub(super) fn negative(&self) -> &Buckets {
        &self.negative
    }
}

/// Index and count of the buckets that hold something, in the order of the indices. A double has 16,000 buckets at most,
/// of which all below the zero bucket's bound are out of reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Buckets(Vec<(i32, u64)>);

impl Buckets {
    fn add(&mut self, index: i32, by: u64) {
        // The sums of a scrape come in order.
        if self.0.last().is_none_or(|(last, _)| *last < index) {
            self.0.push((index, by));
            return;
        }
        match self.0.binary_search_by_key(&index, |(known, _)| *known) {
            Ok(place) => self.0[place].1 += by,
            Err(place) => self.0.insert(place, (index, by)),
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// Index and count, indices ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i32, u64)> {
        self.0.iter().copied()
    }
}

/// The first bucket of a duration that is not in the zero bucket: its bound is 2^(-20 + 1/8) s.
const FIRST: i32 = -20 * PER_OCTAVE + 1;
/// Two octaves, 128 bytes. Requests of one kind rarely need more than a few of them.
const CHUNK: usize = 2 * PER_OCTAVE as usize;
/// Up to 2^20 s, twelve days.
const CHUNKS: usize = 20;

/// Where a duration is counted: 0 is the zero bucket. The last bucket takes all that is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NativePlace(u16);

impl NativePlace {
    /// The place of a duration in nanoseconds.
    pub(super) fn of(nanos: u64) -> Self {
        // A division rounds correctly: what is exactly a power of two of seconds, stays one.
        let seconds = nanos as f64 / 1e9;
        if seconds <= ZERO_THRESHOLD {
            return Self(0);
        }
        let last = (CHUNK * CHUNKS) as i32 - 1;
        Self((bucket(seconds) - FIRST).clamp(0, last) as u16 + 1)
    }
}

/// The durations that one worker counts and a scrape reads. Chunks of buckets come into being when they are needed.
#[derive(Debug, Default)]
pub(super) struct NativeCells {
    zero: AtomicU64,
    chunks: [OnceLock<Box<[AtomicU64; CHUNK]>>; CHUNKS],
}

impl NativeCells {
    /// Counts one. Only the owner may call it.
    pub(super) fn add(&self, place: NativePlace) {
        let word = match usize::from(place.0).checked_sub(1) {
            None => &self.zero,
            Some(index) => &self.chunks[index / CHUNK].get_or_init(Box::default)[index % CHUNK],
        };
        word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Adds what was counted so far to a sum.
    pub(super) fn add_to(&self, sum: &mut NativeHistogram) {
        sum.zero += self.zero.load(Ordering::Relaxed);
        for (number, chunk) in self.chunks.iter().enumerate() {
            for (offset, word) in chunk.get().into_iter().flat_map(|chunk| chunk.iter()).enumerate() {
                let count = word.load(Ordering::Relaxed);
                if count > 0 {
                    sum.positive.add(FIRST + (number * CHUNK + offset) as i32, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bound of a bucket, by the library's own power.
    fn bound(index: i32) -> f64 {
        (f64::from(index) / f64::from(PER_OCTAVE)).exp2()
    }

    fn place_of(index: i32) -> NativePlace {
        NativePlace((index - FIRST + 1) as u16)
    }

    #[test]
    fn the_tables_are_right() {
        for (j, known) in BOUNDS.into_iter().enumerate() {
            assert!((known / bound(j as i32) - 1.0).abs() < 1e-15, "{j}");
        }
        for (cell, below) in BELOW.into_iter().enumerate() {
            let low = 1.0 + cell as f64 / 16.0;
            assert_eq!(
                BOUNDS.iter().filter(|bound| **bound < low).count(),
                usize::from(below),
                "{cell}"
            );
            let high = low + 1.0 / 16.0;
            assert!(BOUNDS.iter().filter(|bound| **bound >= low && **bound < high).count() <= 1);
        }
    }

    #[test]
    fn a_bucket_holds_its_upper_bound_and_not_its_lower() {
        for octave in -160..160 {
            for (j, bound) in BOUNDS.into_iter().enumerate() {
                let index = octave * PER_OCTAVE + j as i32;
                let bound = bound * f64::from(octave).exp2();
                assert_eq!(bucket(bound), index, "{bound}");
                assert_eq!(bucket(bound.next_up()), index + 1, "{bound}");
                assert_eq!(bucket(bound.next_down()), index, "{bound}");
            }
        }
        assert_eq!(
            (bucket(1.0), bucket(0.5), bucket(2.0), bucket(f64::MAX)),
            (0, -8, 8, 8192)
        );
    }

    #[test]
    fn durations_have_the_bucket_of_their_seconds() {
        assert_eq!(NativePlace::of(0), NativePlace(0));
        assert_eq!(NativePlace::of(953), NativePlace(0), "2^-20 s are 953.67 ns");
        assert_eq!(NativePlace::of(954), NativePlace(1));
        for power in 0..=16 {
            let nanos = 1_000_000_000_u64 << power;
            assert_eq!(NativePlace::of(nanos), place_of(power * PER_OCTAVE), "2^{power} s");
            assert_eq!(
                NativePlace::of(nanos + 1),
                place_of(power * PER_OCTAVE + 1),
                "2^{power} s"
            );
            assert_eq!(NativePlace::of(nanos - 1), place_of(power * PER_OCTAVE), "2^{power} s");
        }
        // 1/512 s is the shortest power of two that is a whole number of nanoseconds.
        assert_eq!(NativePlace::of(1_953_125), place_of(-9 * PER_OCTAVE));
        assert_eq!(NativePlace::of(1_953_126), place_of(-9 * PER_OCTAVE + 1));
        let last = NativePlace((CHUNK * CHUNKS) as u16);
        assert_eq!(NativePlace::of(u64::MAX), last);
        assert_eq!(place_of(20 * PER_OCTAVE), last, "the range ends at 2^20 s");
    }

    proptest! {
        #[test]
        fn every_number_is_between_the_bounds_of_its_bucket(value in 1e-6_f64..1e9) {
            let index = bucket(value);
            prop_assert!(value <= bound(index) * (1.0 + 1e-14), "{value} {index}");
            prop_assert!(value > bound(index - 1) * (1.0 - 1e-14), "{value} {index}");
        }

        #[test]
        fn every_duration_is_between_the_bounds_of_its_bucket(nanos in 954..1_u64 << 50) {
            let cells = NativeCells::default();
            cells.add(NativePlace::of(nanos));
            let mut sum = NativeHistogram::default();
            cells.add_to(&mut sum);
            let mut alone = NativeHistogram::default();
            alone.add(nanos as f64 / 1e9);
            if nanos <= 1_000_000_000 << 20 {
                prop_assert_eq!(sum, alone);
            } else {
                prop_assert_eq!(sum.positive.0, [(20 * PER_OCTAVE, 1)]);
            }
        }
    }

    #[test]
    fn samples_of_both_signs_and_none() {
        let mut histogram = NativeHistogram::default();
        for value in [
            1.0,
            1.0,
            -1.0,
            0.0,
            -0.0,
            1e-300,
            f64::MIN_POSITIVE / 2.0,
            3.0,
            f64::NAN,
            f64::INFINITY,
            -f64::INFINITY,
        ] {
            histogram.add(value);
        }
        assert_eq!(histogram.zero, 4);
        assert_eq!(histogram.positive.0, [(0, 2), (13, 1)]);
        assert_eq!(histogram.negative.0, [(0, 1)]);
        assert_eq!(histogram.count(), 8);
    }

    #[test]
    fn workers_add_up() {
        let mut sum = NativeHistogram::default();
        for nanos in [
            [5, 1_000_000_000],
            [70_000_000_000, 1_000_000_000],
            [1_000_000, 1_000_001],
        ] {
            let cells = NativeCells::default();
            nanos.into_iter().for_each(|nanos| cells.add(NativePlace::of(nanos)));
            cells.add_to(&mut sum);
        }
        assert_eq!(sum.positive.0, [(-79, 2), (0, 2), (50, 1)]);
        assert_eq!((sum.zero, sum.count()), (1, 6));
    }
}
