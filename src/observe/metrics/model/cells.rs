//! What is counted of one version of a model, under one lock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::INFERENCE_BUCKETS;
use super::super::labels::fold_code;
use super::super::native::NativeHistogram;
use super::super::window::Window;
use super::ModelDone;
use super::quality::{AccuracySource, DROPPED, FEEDBACK_KINDS, Gauge, Quality, QualityReading, Rejection};

/// `model_inference_time_seconds` is the mean of the requests that ended within this time.
pub const TIME_WINDOW: Duration = Duration::from_secs(60);
/// With no request in the window, the last mean stands this long after the last request ended.
pub const TIME_HOLD: Duration = Duration::from_secs(15 * 60);

/// A histogram under a lock.
#[derive(Clone, Debug)]
pub(in crate::observe::metrics) struct Histogram {
    pub(in crate::observe::metrics) bounds: &'static [f64],
    pub(in crate::observe::metrics) counts: Vec<u64>,
    pub(in crate::observe::metrics) sum: f64,
    pub(in crate::observe::metrics) native: NativeHistogram,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
            native: NativeHistogram::default(),
        }
    }

    pub(super) fn add(&mut self, value: f64) {
        let bucket = self
            .bounds
            .iter()
            .position(|bound| value <= *bound)
            .unwrap_or(self.bounds.len());
        self.counts[bucket] += 1;
        self.sum += value;
        self.native.add(value);
    }

    pub(in crate::observe::metrics) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What a scrape needs of one version.
#[derive(Debug)]
pub(in crate::observe::metrics) struct Reading {
    pub(in crate::observe::metrics) codes: Vec<(u16, Histogram)>,
    pub(in crate::observe::metrics) time: Option<f64>,
    /// Accuracy and confidence.
    pub(in crate::observe::metrics) quality: Vec<QualityReading>,
    pub(in crate::observe::metrics) rejected: Vec<(AccuracySource, Rejection, u64)>,
    pub(in crate::observe::metrics) in_flight: u64,
    pub(in crate::observe::metrics) request_bytes: u64,
    pub(in crate::observe::metrics) response_bytes: u64,
    pub(in crate::observe::metrics) voxels: u64,
    pub(in crate::observe::metrics) stages: Vec<(String, Histogram)>,
    pub(in crate::observe::metrics) feedback: [u64; FEEDBACK_KINDS],
    pub(in crate::observe::metrics) both_empty: Vec<(String, u64)>,
    /// Number and bytes of masks, where masks are kept.
    pub(in crate::observe::metrics) masks: Option<[u64; 2]>,
    pub(in crate::observe::metrics) masks_dropped: [u64; DROPPED],
}

impl Reading {
    /// The version went: what it was worth is nothing that may move an average.
    pub(super) fn forget_quality(&mut self) {
        for quality in &mut self.quality {
            quality.value = None;
            quality.age = None;
        }
    }
}

#[derive(Debug)]
pub(super) struct Cells {
    codes: BTreeMap<u16, Histogram>,
    request_bytes: u64,
    response_bytes: u64,
    ended: Window,
    held: Held,
    running: BTreeMap<u64, Instant>,
    next_run: u64,
    quality: BTreeMap<(Quality, AccuracySource, String), Gauge>,
    pub(super) rejected: BTreeMap<(AccuracySource, Rejection), u64>,
    pub(super) voxels: u64,
    stages: BTreeMap<String, Histogram>,
    pub(super) feedback: [u64; FEEDBACK_KINDS],
    pub(super) both_empty: BTreeMap<String, u64>,
    pub(super) masks_dropped: [u64; DROPPED],
    pub(super) keeps_masks: bool,
}

impl Cells {
    pub(super) fn new() -> Self {
        Self {
            codes: BTreeMap::new(),
            request_bytes: 0,
            response_bytes: 0,
            ended: Window::new(TIME_WINDOW),
            held: Held::default(),
            running: BTreeMap::new(),
            next_run: 0,
            quality: BTreeMap::new(),
            rejected: BTreeMap::new(),
            voxels: 0,
            stages: BTreeMap::new(),
            feedback: [0; FEEDBACK_KINDS],
            both_empty: BTreeMap::new(),
            masks_dropped: [0; DROPPED],
            keeps_masks: false,
        }
    }

    /// Notes a request that begins; the number is its name.
    pub(super) fn start(&mut self, now: Instant) -> u64 {
        self.next_run += 1;
        self.running.insert(self.next_run, now);
        self.next_run
    }

    pub(super) fn finish(&mut self, run: u64, done: ModelDone, now: Instant) {
        self.running.remove(&run);
        let seconds = done.duration.as_secs_f64();
        let histogram = self
            .codes
            .entry(fold_code(done.code))
            .or_insert_with(|| Histogram::new(&INFERENCE_BUCKETS));
        histogram.add(seconds);
        self.request_bytes += done.request_bytes;
        self.response_bytes += done.response_bytes;
        self.ended.add(now, seconds);
        self.held.sample(self.ended.mean(now), now);
    }

    pub(super) fn sample(&mut self, quality: Quality, source: AccuracySource, label: &str, value: f64, now: Instant) {
        let key = (quality, source, label.to_owned());
        self.quality.entry(key).or_insert_with(Gauge::new).add(value, now);
    }

    pub(super) fn stage(&mut self, stage: &str, duration: Duration) {
        if !self.stages.contains_key(stage) {
            self.stages.insert(stage.to_owned(), Histogram::new(&INFERENCE_BUCKETS));
        }
        if let Some(histogram) = self.stages.get_mut(stage) {
            histogram.add(duration.as_secs_f64());
        }
    }

    /// Everything, as of now. A version that gets no requests has neither accuracy nor confidence.
    pub(super) fn read(&mut self, active: bool, now: Instant) -> Reading {
        let quality = self.quality.iter_mut();
        let quality = quality.map(|((quality, source, label), gauge)| {
            let value = gauge.value(*source, now).filter(|_| active);
            QualityReading {
                quality: *quality,
                source: *source,
                label: label.clone(),
                age: value.and(gauge.age(now)),
                value,
                samples: gauge.samples.clone(),
            }
        });
        let quality = quality.collect();
        let rejected = self.rejected.iter();
        let copy = |(name, histogram): (&String, &Histogram)| (name.clone(), histogram.clone());
        Reading {
            quality,
            rejected: rejected
                .map(|((source, reason), count)| (*source, *reason, *count))
                .collect(),
            time: self.time(now),
            codes: self
                .codes
                .iter()
                .map(|(code, histogram)| (*code, histogram.clone()))
                .collect(),
            in_flight: self.running.len() as u64,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            voxels: self.voxels,
            stages: self.stages.iter().map(copy).collect(),
            feedback: self.feedback,
            both_empty: self
                .both_empty
                .iter()
                .map(|(label, count)| (label.clone(), *count))
                .collect(),
            masks: self.keeps_masks.then_some([0; 2]),
            masks_dropped: self.masks_dropped,
        }
    }

    /// The gauge: the mean of what ended in the window and of what runs longer than that mean. Where nothing ended in
    /// the window, the last mean is what a running request must be older than; where there was none, the window is.
    fn time(&mut self, now: Instant) -> Option<f64> {
        let (sum, count) = self.ended.sum(now);
        let mean = self.held.value(self.ended.mean(now), TIME_HOLD, now);
        let threshold = mean.unwrap_or(TIME_WINDOW.as_secs_f64());
        let ages = self
            .running
            .values()
            .map(|started| now.saturating_duration_since(*started).as_secs_f64());
        let (age_sum, age_count) = ages
            .filter(|age| *age > threshold)
            .fold((0.0, 0), |(sum, count), age| (sum + age, count + 1));
        if age_count == 0 {
            mean
        } else {
            Some((sum + age_sum) / (count + age_count) as f64)
        }
    }
}

/// A gauge's last value, for the time after its window ran empty.
#[derive(Debug, Default)]
pub(super) struct Held {
    value: Option<f64>,
    last_sample: Option<Instant>,
}

impl Held {
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.last_sample?))
    }

    pub(super) fn sample(&mut self, mean: Option<f64>, now: Instant) {
        self.value = mean;
        self.last_sample = Some(now);
    }

    pub(super) fn value(&mut self, mean: Option<f64>, hold: Duration, now: Instant) -> Option<f64> {
        self.value = mean.or(self.value);
        let fresh = self
            .last_sample
            .is_some_and(|last| now.saturating_duration_since(last) <= hold);
        mean.or(self.value.filter(|_| fresh))
    }
}
