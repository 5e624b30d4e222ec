//! Accuracy and confidence: gauges of samples with their provenance.

use std::time::{Duration, Instant};

use super::super::ACCURACY_BUCKETS;
use super::super::window::Window;
use super::cells::{Held, Histogram};

/// `model_accuracy` and `model_confidence` are the mean of the samples of this time.
pub const ACCURACY_WINDOW: Duration = Duration::from_secs(15 * 60);
/// With no sample in the window, the last mean stands this long after the last sample.
pub const ACCURACY_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// What a sample says. The two are never mixed: an average over `model_accuracy` means accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// How right the model was.
    Accuracy,
    /// How sure the model was of itself.
    Confidence,
}

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

/// Why there is no sample where one should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// A text that is no number, or NaN.
    NotANumber,
    /// Below 0 or above 1.
    OutOfRange,
    /// The JSON, multipart body or exposition cannot be read.
    Malformed,
    /// The pointer or the gauge leads nowhere.
    Missing,
    /// More bytes than `maxBytes`, or than Gantry reads.
    TooLarge,
    /// A `Content-Encoding` that Gantry does not read.
    Encoding,
    /// The server did not answer its scrape.
    Unreachable,
}

impl Rejection {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotANumber => "not_a_number",
            Self::OutOfRange => "out_of_range",
            Self::Malformed => "malformed",
            Self::Missing => "missing",
            Self::TooLarge => "too_large",
            Self::Encoding => "encoding",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What a feedback brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedbackKind {
    /// A number.
    Score,
    /// The true mask.
    Mask,
}

pub(in crate::observe::metrics) const FEEDBACK_KINDS: usize = 2;

impl FeedbackKind {
    pub(in crate::observe::metrics) const ALL: [Self; FEEDBACK_KINDS] = [Self::Score, Self::Mask];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Mask => "mask",
        }
    }
}

/// Why a mask was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Answers under way took all the room, or too many were under way.
    Full,
    /// It alone is larger than `maxBytes`, or than Gantry compares.
    TooLarge,
    /// The disk failed, or could not keep up.
    Io,
}

pub(in crate::observe::metrics) const DROPPED: usize = 3;

impl Dropped {
    pub(in crate::observe::metrics) const ALL: [Self; DROPPED] = [Self::Full, Self::TooLarge, Self::Io];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::Io => "io",
        }
    }
}

/// One gauge as a scrape sees it.
#[derive(Debug)]
pub(in crate::observe::metrics) struct QualityReading {
    pub(in crate::observe::metrics) quality: Quality,
    pub(in crate::observe::metrics) source: AccuracySource,
    pub(in crate::observe::metrics) label: String,
    pub(in crate::observe::metrics) value: Option<f64>,
    /// Since the newest sample; where there is a value.
    pub(in crate::observe::metrics) age: Option<Duration>,
    pub(in crate::observe::metrics) samples: Histogram,
}

#[derive(Debug)]
pub(super) struct Gauge {
    window: Window,
    held: Held,
    pub(super) samples: Histogram,
}

impl Gauge {
    pub(super) fn new() -> Self {
        Self {
            window: Window::new(ACCURACY_WINDOW),
            held: Held::default(),
            samples: Histogram::new(&ACCURACY_BUCKETS),
        }
    }

    pub(super) fn add(&mut self, value: f64, now: Instant) {
        self.samples.add(value);
        self.window.add(now, value);
        self.held.sample(self.window.mean(now), now);
    }

    pub(super) fn value(&mut self, source: AccuracySource, now: Instant) -> Option<f64> {
        self.held.value(self.window.mean(now), source.hold(), now)
    }

    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.held.age(now)
    }
}
