//! What makes a service a *model*: its series, and accuracy with its provenance.

pub mod source;

use std::sync::Arc;
use std::time::Instant;

use ::http::HeaderMap;

use crate::config::dynamic;
use crate::observe::metrics::{AccuracySource, Metrics, ModelRun, ModelSeries, Quality, Rejection};
use source::{Origin, Source};

/// What the series of a version are labelled with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// `model.name`
    pub model: String,
    /// `model.version`
    pub version: String,
    /// The service's qualified name.
    pub service: String,
}

/// A service's `model` and what stands beside it, compiled.
#[derive(Debug)]
pub struct ModelPlan {
    /// Its labels.
    pub identity: Arc<Identity>,
    /// Its series.
    pub series: ModelSeries,
    /// `accuracy` and `confidence`.
    pub sources: Vec<Source>,
    /// `serverTiming`
    pub server_timing: Option<dynamic::ServerTiming>,
}

impl ModelPlan {
    /// Compiles a service's `model`; `None` where it has none.
    #[must_use]
    pub fn new(settings: &dynamic::Service, service: &str, metrics: &Metrics) -> Option<Self> {
        let name = settings.model.as_ref()?;
        let accuracy = settings.accuracy.iter().map(|source| (Quality::Accuracy, source));
        let confidence = settings.confidence.iter().map(|source| (Quality::Confidence, source));
        let sources = accuracy.chain(confidence);
        Some(Self {
            series: metrics.model(&name.name, &name.version, service),
            sources: sources
                .filter_map(|(quality, source)| Source::new(quality, source))
                .collect(),
            server_timing: settings.server_timing.clone(),
            identity: Arc::new(Identity {
                model: name.name.clone(),
                version: name.version.clone(),
                service: service.to_owned(),
            }),
        })
    }

    /// An inference begins.
    #[must_use]
    pub fn start(&self) -> ModelRun {
        self.series.start(Instant::now())
    }

    /// Takes samples from an answer's headers.
    pub fn read_headers(&self, headers: &HeaderMap) {
        for source in &self.sources {
            let Origin::Header(name) = &source.origin else { continue };
            for value in headers.get_all(name) {
                self.take(source, value.to_str().ok().and_then(|text| text.trim().parse().ok()));
            }
        }
    }

    /// Counts what was found, a number or not, of what the model itself reports.
    fn take(&self, source: &Source, value: Option<f64>) {
        let from = AccuracySource::Reported;
        match value {
            Some(value) => self
                .series
                .sample(source.quality, from, &source.label, value, Instant::now()),
            None => self.series.reject(from, Rejection::NotANumber),
        }
    }
}
