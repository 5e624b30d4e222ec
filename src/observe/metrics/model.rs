//! The `model_*` series: how fast, how accurate and how busy each version of a model is.
//!
//! Inferences take from tens of milliseconds to minutes, so a short lock per request is cheap here, and the series may
//! be more than counters: sliding means, and the age of what still runs.

mod cells;
mod quality;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{LINGER, lock};
pub(super) use cells::{Histogram, Reading};
pub use cells::{TIME_HOLD, TIME_WINDOW};
pub(super) use quality::QualityReading;
pub use quality::{ACCURACY_HOLD, ACCURACY_WINDOW, AccuracySource, Dropped, FeedbackKind, Quality, Rejection};

use cells::Cells;

/// The code of a request whose client went before the answer (nginx's and Traefik's number).
const CLIENT_CLOSED: u16 = 499;

/// The labels that all series of a version share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ModelLabels {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) service: String,
}

/// The series of one version of a model behind one service. Clones are the same series.
#[derive(Clone, Debug)]
pub struct ModelSeries(Arc<State>);

#[derive(Debug)]
struct State {
    active: AtomicBool,
    /// Number and bytes of the masks that are kept; none while no mask was ever kept.
    masks: [AtomicU64; 2],
    cells: Mutex<Cells>,
}

/// How a request to a model ended.
#[derive(Clone, Copy, Debug)]
pub struct ModelDone {
    /// The status code.
    pub code: u16,
    /// From the request's head to the last byte of the answer.
    pub duration: Duration,
    /// Bytes of the request body.
    pub request_bytes: u64,
    /// Bytes of the response body.
    pub response_bytes: u64,
}

impl ModelSeries {
    fn new() -> Self {
        Self(Arc::new(State {
            active: AtomicBool::new(true),
            masks: [const { AtomicU64::new(0) }; 2],
            cells: Mutex::new(Cells::new()),
        }))
    }

    /// A request is on its way to the model.
    pub fn start(&self, now: Instant) -> ModelRun {
        let id = lock(&self.0.cells).start(now);
        ModelRun {
            series: self.clone(),
            id,
            started: now,
            over: false,
        }
    }

    /// A sample of the model's accuracy or confidence, from 0 to 1; `label` is the configuration's name for it (`dice`).
    /// Anything else is rejected: a broken figure must not move an alert.
    pub fn sample(&self, quality: Quality, source: AccuracySource, label: &str, value: f64, now: Instant) {
        if !(0.0..=1.0).contains(&value) {
            let reason = if value.is_nan() {
                Rejection::NotANumber
            } else {
                Rejection::OutOfRange
            };
            return self.reject(source, reason);
        }
        lock(&self.0.cells).sample(quality, source, label, value, now);
    }

    /// A sample that could not be had.
    pub fn reject(&self, source: AccuracySource, reason: Rejection) {
        *lock(&self.0.cells).rejected.entry((source, reason)).or_default() += 1;
    }

    /// Voxels of a volume that the model has worked on.
    pub fn voxels(&self, count: u64) {
        let mut cells = lock(&self.0.cells);
        cells.voxels = cells.voxels.saturating_add(count);
    }

    /// Time that one stage of the model's work took. `stage` is a name from the configuration.
    pub fn stage(&self, stage: &str, duration: Duration) {
        lock(&self.0.cells).stage(stage, duration);
    }

    /// A feedback was taken.
    pub fn feedback(&self, kind: FeedbackKind) {
        lock(&self.0.cells).feedback[kind as usize] += 1;
    }

    /// Neither the true mask nor the model's has a voxel of `label`: right, but no Dice.
    pub fn both_empty(&self, label: &str) {
        *lock(&self.0.cells).both_empty.entry(label.to_owned()).or_default() += 1;
    }

    /// A mask was not kept, or not to its end.
    pub fn mask_dropped(&self, why: Dropped) {
        let mut cells = lock(&self.0.cells);
        cells.masks_dropped[why as usize] += 1;
        cells.keeps_masks = true;
    }

    /// How many masks are kept now, and their bytes.
    pub fn set_masks(&self, count: u64, bytes: u64) {
        self.0.masks[0].store(count, Ordering::Relaxed);
        self.0.masks[1].store(bytes, Ordering::Relaxed);
        lock(&self.0.cells).keeps_masks = true;
    }

    /// Whether the version gets traffic (its weight is not 0): a version that gets none has no `model_accuracy`.
    /// Default: true.
    pub fn set_active(&self, active: bool) {
        self.0.active.store(active, Ordering::Relaxed);
    }

    /// The series' values, for an encoder.
    pub(super) fn read(&self, now: Instant) -> Reading {
        let active = self.0.active.load(Ordering::Relaxed);
        let mut reading = lock(&self.0.cells).read(active, now);
        if let Some(masks) = &mut reading.masks {
            *masks = [0, 1].map(|place| self.0.masks[place].load(Ordering::Relaxed));
        }
        reading
    }
}

/// A request that a model works on. Dropped unfinished, it counts as 499: the client went.
#[derive(Debug)]
pub struct ModelRun {
    series: ModelSeries,
    id: u64,
    started: Instant,
    over: bool,
}

impl ModelRun {
    /// The request is over.
    pub fn finish(mut self, done: ModelDone, now: Instant) {
        self.over = true;
        lock(&self.series.0.cells).finish(self.id, done, now);
    }
}

impl Drop for ModelRun {
    fn drop(&mut self) {
        if !self.over {
            let now = Instant::now();
            let duration = now.saturating_duration_since(self.started);
            let done = ModelDone {
                code: CLIENT_CLOSED,
                duration,
                request_bytes: 0,
                response_bytes: 0,
            };
            lock(&self.series.0.cells).finish(self.id, done, now);
        }
    }
}

#[derive(Debug)]
struct Tracked {
    series: ModelSeries,
    asked: bool,
    gone_since: Option<Instant>,
}

/// All versions of all models.
#[derive(Debug, Default)]
pub(super) struct Models(BTreeMap<ModelLabels, Tracked>);

impl Models {
    pub(super) fn resolve(&mut self, model: &str, version: &str, service: &str) -> ModelSeries {
        let labels = ModelLabels {
            model: model.to_owned(),
            version: version.to_owned(),
            service: service.to_owned(),
        };
        let new = || Tracked {
            series: ModelSeries::new(),
            asked: true,
            gone_since: None,
        };
        let tracked = self.0.entry(labels).or_insert_with(new);
        tracked.asked = true;
        tracked.gone_since = None;
        tracked.series.clone()
    }

    pub(super) fn next_generation(&mut self, now: Instant) {
        for tracked in self.0.values_mut() {
            if !std::mem::take(&mut tracked.asked) {
                tracked.gone_since.get_or_insert(now);
            }
        }
    }

    /// All series that exist now. A version that went has no accuracy; it stays while a request to it runs.
    pub(super) fn read(&mut self, now: Instant) -> Vec<(ModelLabels, Reading)> {
        let mut all = Vec::with_capacity(self.0.len());
        self.0.retain(|labels, tracked| {
            let mut reading = tracked.series.read(now);
            if let Some(since) = tracked.gone_since {
                if now.saturating_duration_since(since) >= LINGER && reading.in_flight == 0 {
                    return false;
                }
                reading.forget_quality();
            }
            all.push((labels.clone(), reading));
            true
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(series: &ModelSeries, seconds: f64, now: Instant) {
        let duration = Duration::from_secs_f64(seconds);
        series.start(now - duration).finish(
            ModelDone {
                code: 200,
                duration,
                request_bytes: 10,
                response_bytes: 20,
            },
            now,
        );
    }

    /// A moment far enough from the clock's zero that ages can be subtracted from it.
    fn start() -> Instant {
        Instant::now() + Duration::from_secs(10_000)
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn time_is_the_mean_of_the_last_minute_then_held_then_absent() {
        let (series, start) = (ModelSeries::new(), start());
        assert_eq!(series.read(start).time, None);
        ended(&series, 1.0, start);
        ended(&series, 3.0, after(start, 20));
        assert_eq!(series.read(after(start, 59)).time, Some(2.0));
        assert_eq!(series.read(after(start, 70)).time, Some(3.0));
        assert_eq!(series.read(after(start, 500)).time, Some(3.0));
        assert_eq!(series.read(after(start, 20 + 15 * 60)).time, Some(3.0));
        assert_eq!(series.read(after(start, 21 + 15 * 60)).time, None);
        ended(&series, 7.0, after(start, 2000));
        assert_eq!(series.read(after(start, 2001)).time, Some(7.0));
    }

    #[test]
    fn a_running_request_counts_once_it_is_older_than_the_mean() {
        let (series, start) = (ModelSeries::new(), start());
        ended(&series, 2.0, start);
        let run = series.start(start);
        assert_eq!(series.read(after(start, 2)).time, Some(2.0));
        assert_eq!(series.read(after(start, 10)).time, Some(6.0), "(2 + 10) / 2");
        assert_eq!(series.read(after(start, 10)).in_flight, 1);
        assert_eq!(
            series.read(after(start, 100)).time,
            Some(100.0),
            "nothing ended: its age alone"
        );
        run.finish(
            ModelDone {
                code: 200,
                duration: Duration::from_secs(120),
                request_bytes: 0,
                response_bytes: 0,
            },
            after(start, 120),
        );
        assert_eq!(series.read(after(start, 121)).time, Some(120.0));
        assert_eq!(series.read(after(start, 121)).in_flight, 0);
    }

    #[test]
    fn a_model_that_hangs_from_the_start_shows_after_a_minute() {
        let (series, start) = (ModelSeries::new(), start());
        let _run = series.start(start);
        assert_eq!(series.read(after(start, 60)).time, None);
        assert_eq!(series.read(after(start, 90)).time, Some(90.0));
    }

    #[test]
    fn accuracy_is_the_mean_of_a_quarter_of_an_hour_and_held_for_a_day() {
        let (series, start) = (ModelSeries::new(), start());
        series.sample(Quality::Accuracy, AccuracySource::Reported, "dice", 0.9, start);
        series.sample(Quality::Accuracy, AccuracySource::Reported, "dice", 0.7, start);
        for odd in [f64::NAN, f64::INFINITY, 1.01, -0.01] {
            series.sample(Quality::Accuracy, AccuracySource::Reported, "dice", odd, start);
        }
        series.sample(Quality::Confidence, AccuracySource::Reported, "dice", 0.1, start);
        series.sample(Quality::Accuracy, AccuracySource::Feedback, "dice", 0.5, start);
        series.sample(Quality::Accuracy, AccuracySource::Scraped, "dice", 0.4, start);
        let values = |now| {
            let quality = series.read(now).quality;
            let (accuracy, confidence) = quality.split_at(3);
            assert_eq!(confidence.len(), 1, "confidence is never accuracy");
            accuracy.iter().map(|a| a.value).collect::<Vec<_>>()
        };
        let rejected = series.read(start).rejected;
        let reported = AccuracySource::Reported;
        assert_eq!(
            rejected,
            [
                (reported, Rejection::NotANumber, 1),
                (reported, Rejection::OutOfRange, 3)
            ]
        );
        let age = |now| series.read(now).quality[0].age;
        assert_eq!(age(after(start, 800)), Some(Duration::from_secs(800)));
        assert_eq!(age(after(start, 24 * 3600 + 1)), None, "no value, no age");
        let mean = (0.9 + 0.7) / 2.0;
        assert_eq!(values(after(start, 800)), [Some(mean), Some(0.4), Some(0.5)]);
        assert_eq!(
            values(after(start, 3600)),
            [Some(mean), None, Some(0.5)],
            "a scrape goes stale"
        );
        assert_eq!(values(after(start, 24 * 3600 + 1)), [None, None, None]);
        assert_eq!(series.read(after(start, 24 * 3600 + 1)).quality[0].samples.count(), 2);
        series.set_active(false);
        assert_eq!(values(after(start, 1)), [None, None, None]);
        series.set_active(true);
        assert_eq!(values(after(start, 1)), [Some(mean), Some(0.4), Some(0.5)]);
    }

    #[test]
    fn a_run_that_is_dropped_is_a_client_that_went() {
        let series = ModelSeries::new();
        let now = Instant::now();
        drop(series.start(now));
        let reading = series.read(now);
        assert_eq!(reading.in_flight, 0);
        assert_eq!(reading.codes[0].0, 499);
    }

    #[test]
    fn a_version_that_went_loses_its_accuracy_at_once_and_all_else_later() {
        let mut models = Models::default();
        let start = start();
        let series = models.resolve("m", "1", "s");
        series.sample(Quality::Accuracy, AccuracySource::Reported, "dice", 0.9, start);
        models.next_generation(start);
        assert_eq!(models.read(start)[0].1.quality[0].value, Some(0.9));
        models.next_generation(start);
        let run = series.start(start);
        assert_eq!(models.read(start)[0].1.quality[0].value, None);
        assert_eq!(models.read(start + LINGER).len(), 1, "one is still running");
        drop(run);
        assert!(models.read(start + LINGER).is_empty());
        drop(models.resolve("m", "1", "s"));
        assert_eq!(models.read(start + LINGER).len(), 1);
    }
}
