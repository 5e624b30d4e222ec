//! The `model_*` series: how fast, how accurate and how busy each version of a model is.
//!
//! Inferences take from tens of milliseconds to minutes, so a short lock per request is cheap here, and the series may
//! be more than counters: sliding means, and the age of what still runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::labels::fold_code;
use super::native::NativeHistogram;
use super::window::Window;
use super::{ACCURACY_BUCKETS, INFERENCE_BUCKETS, LINGER, lock};

/// `model_inference_time_seconds` is the mean of the requests that ended within this time.
pub const TIME_WINDOW: Duration = Duration::from_secs(60);
/// With no request in the window, the last mean stands this long after the last request ended.
pub const TIME_HOLD: Duration = Duration::from_secs(15 * 60);
/// `model_accuracy` is the mean of the samples of this time.
pub const ACCURACY_WINDOW: Duration = Duration::from_secs(15 * 60);
/// With no sample in the window, the last mean stands this long after the last sample.
pub const ACCURACY_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// The code of a request whose client went before the answer (nginx's and Traefik's number).
const CLIENT_CLOSED: u16 = 499;
/// What an accuracy must stay below to be believed: beyond it, sums would lose the other samples.
const LARGEST_SAMPLE: f64 = 1e9;

/// Where an accuracy comes from. Never mixed in one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccuracySource {
    /// The model's own answer: header, trailer or JSON.
    Reported,
    /// The model's `/metrics`. The last value stands only as long as the window: then its scrape is stale.
    Scraped,
    /// Sent to Gantry afterwards by somebody who knows the truth.
    Feedback,
}

impl AccuracySource {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Scraped => "scraped",
            Self::Feedback => "feedback",
        }
    }

    fn hold(self) -> Duration {
        match self {
            Self::Scraped => ACCURACY_WINDOW,
            Self::Reported | Self::Feedback => ACCURACY_HOLD,
        }
    }
}

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
            cells: Mutex::new(Cells::new()),
        }))
    }

    /// A request is on its way to the model.
    pub fn start(&self, now: Instant) -> ModelRun {
        let mut cells = lock(&self.0.cells);
        cells.next_run += 1;
        let id = cells.next_run;
        cells.running.insert(id, now);
        drop(cells);
        ModelRun {
            series: self.clone(),
            id,
            started: now,
            over: false,
        }
    }

    /// A sample of the model's accuracy; `label` is the configuration's name for it (`dice`). What is no number, or
    /// beyond all measure, is ignored.
    pub fn accuracy(&self, source: AccuracySource, label: &str, value: f64, now: Instant) {
        if !value.is_finite() || value.abs() > LARGEST_SAMPLE {
            return;
        }
        let mut cells = lock(&self.0.cells);
        let key = (source, label.to_owned());
        cells.accuracy.entry(key).or_insert_with(Accuracy::new).add(value, now);
    }

    /// Whether the version gets traffic (its weight is not 0): a version that gets none has no `model_accuracy`.
    /// Default: true.
    pub fn set_active(&self, active: bool) {
        self.0.active.store(active, Ordering::Relaxed);
    }

    /// The series' values, for an encoder.
    pub(super) fn read(&self, now: Instant) -> Reading {
        let mut cells = lock(&self.0.cells);
        let active = self.0.active.load(Ordering::Relaxed);
        let accuracy = cells
            .accuracy
            .iter_mut()
            .map(|((source, label), accuracy)| AccuracyReading {
                source: *source,
                label: label.clone(),
                value: accuracy.value(*source, now).filter(|_| active),
                samples: accuracy.samples.clone(),
            });
        Reading {
            accuracy: accuracy.collect(),
            time: cells.time(now),
            codes: cells
                .codes
                .iter()
                .map(|(code, histogram)| (*code, histogram.clone()))
                .collect(),
            in_flight: cells.running.len() as u64,
            request_bytes: cells.request_bytes,
            response_bytes: cells.response_bytes,
        }
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

/// A histogram under a lock.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    pub(super) bounds: &'static [f64],
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
    pub(super) native: NativeHistogram,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
            native: NativeHistogram::default(),
        }
    }

    fn add(&mut self, value: f64) {
        let bucket = self
            .bounds
            .iter()
            .position(|bound| value <= *bound)
            .unwrap_or(self.bounds.len());
        self.counts[bucket] += 1;
        self.sum += value;
        self.native.add(value);
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What a scrape needs of one version.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) codes: Vec<(u16, Histogram)>,
    pub(super) time: Option<f64>,
    pub(super) accuracy: Vec<AccuracyReading>,
    pub(super) in_flight: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

#[derive(Debug)]
pub(super) struct AccuracyReading {
    pub(super) source: AccuracySource,
    pub(super) label: String,
    pub(super) value: Option<f64>,
    pub(super) samples: Histogram,
}

#[derive(Debug)]
struct Cells {
    codes: BTreeMap<u16, Histogram>,
    request_bytes: u64,
    response_bytes: u64,
    ended: Window,
    held: Held,
    running: BTreeMap<u64, Instant>,
    next_run: u64,
    accuracy: BTreeMap<(AccuracySource, String), Accuracy>,
}

impl Cells {
    fn new() -> Self {
        Self {
            codes: BTreeMap::new(),
            request_bytes: 0,
            response_bytes: 0,
            ended: Window::new(TIME_WINDOW),
            held: Held::default(),
            running: BTreeMap::new(),
            next_run: 0,
            accuracy: BTreeMap::new(),
        }
    }

    fn finish(&mut self, run: u64, done: ModelDone, now: Instant) {
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
struct Held {
    value: Option<f64>,
    last_sample: Option<Instant>,
}

impl Held {
    fn sample(&mut self, mean: Option<f64>, now: Instant) {
        self.value = mean;
        self.last_sample = Some(now);
    }

    fn value(&mut self, mean: Option<f64>, hold: Duration, now: Instant) -> Option<f64> {
        self.value = mean.or(self.value);
        let fresh = self
            .last_sample
            .is_some_and(|last| now.saturating_duration_since(last) <= hold);
        mean.or(self.value.filter(|_| fresh))
    }
}

#[derive(Debug)]
struct Accuracy {
    window: Window,
    held: Held,
    samples: Histogram,
}

impl Accuracy {
    fn new() -> Self {
        let window = Window::new(ACCURACY_WINDOW);
        Self {
            window,
            held: Held::default(),
            samples: Histogram::new(&ACCURACY_BUCKETS),
        }
    }

    fn add(&mut self, value: f64, now: Instant) {
        self.samples.add(value);
        self.window.add(now, value);
        self.held.sample(self.window.mean(now), now);
    }

    fn value(&mut self, source: AccuracySource, now: Instant) -> Option<f64> {
        self.held.value(self.window.mean(now), source.hold(), now)
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
                reading.accuracy.iter_mut().for_each(|accuracy| accuracy.value = None);
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
        series.accuracy(AccuracySource::Reported, "dice", 0.9, start);
        series.accuracy(AccuracySource::Reported, "dice", 0.7, start);
        series.accuracy(AccuracySource::Reported, "dice", f64::NAN, start);
        series.accuracy(AccuracySource::Reported, "dice", f64::INFINITY, start);
        series.accuracy(AccuracySource::Feedback, "dice", 0.5, start);
        series.accuracy(AccuracySource::Scraped, "dice", 0.4, start);
        let values = |now| series.read(now).accuracy.iter().map(|a| a.value).collect::<Vec<_>>();
        let mean = (0.9 + 0.7) / 2.0;
        assert_eq!(values(after(start, 800)), [Some(mean), Some(0.4), Some(0.5)]);
        assert_eq!(
            values(after(start, 3600)),
            [Some(mean), None, Some(0.5)],
            "a scrape goes stale"
        );
        assert_eq!(values(after(start, 24 * 3600 + 1)), [None, None, None]);
        assert_eq!(series.read(after(start, 24 * 3600 + 1)).accuracy[0].samples.count(), 2);
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
        series.accuracy(AccuracySource::Reported, "dice", 0.9, start);
        models.next_generation(start);
        assert_eq!(models.read(start)[0].1.accuracy[0].value, Some(0.9));
        models.next_generation(start);
        let run = series.start(start);
        assert_eq!(models.read(start)[0].1.accuracy[0].value, None);
        assert_eq!(models.read(start + LINGER).len(), 1, "one is still running");
        drop(run);
        assert!(models.read(start + LINGER).is_empty());
        drop(models.resolve("m", "1", "s"));
        assert_eq!(models.read(start + LINGER).len(), 1);
    }
}
