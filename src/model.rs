//! What makes a service a *model*: its series, and accuracy with its provenance.

pub mod feedback;
pub mod masks;
pub mod version;

use std::time::Instant;

use ::http::{HeaderMap, HeaderName};

use crate::observe::metrics::{AccuracySource, ModelRun, ModelSeries};

/// An accuracy source that reads a header of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderSource {
    /// The header.
    pub name: HeaderName,
    /// Value of the `label` label.
    pub label: String,
}

/// A service's `model` and `accuracy`, compiled.
#[derive(Debug)]
pub struct ModelPlan {
    /// Its series.
    pub series: ModelSeries,
    /// Headers of the answer that tell accuracy.
    pub headers: Vec<HeaderSource>,
}

impl ModelPlan {
    /// An inference begins.
    #[must_use]
    pub fn start(&self) -> ModelRun {
        self.series.start(Instant::now())
    }

    /// Takes accuracy samples from an answer's headers. What is no number in 0..=1 is ignored: a broken header must not
    /// move an alert.
    pub fn read_headers(&self, headers: &HeaderMap) {
        for source in &self.headers {
            for value in headers.get_all(&source.name) {
                let sample = value.to_str().ok().and_then(|v| v.trim().parse::<f64>().ok());
                if let Some(sample) = sample.filter(|v| (0.0..=1.0).contains(v)) {
                    self.series
                        .accuracy(AccuracySource::Reported, &source.label, sample, Instant::now());
                }
            }
        }
    }
}
