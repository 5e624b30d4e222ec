//! What makes a service a *model*: its series, accuracy with its provenance, and the way back from a judgement to the
//! answer that it is about.
//!
//! [`inference`] stands around a request, [`answer`] looks at what comes back, [`scrape`] asks the servers, [`feedback`]
//! and [`masks`] remember. Nothing here holds a body back or changes it.

pub mod answer;
pub mod feedback;
pub mod inference;
pub mod json;
pub mod mask;
pub mod masks;
pub mod multipart;
pub mod parameters;
pub mod report;
pub mod request_id;
pub mod scrape;
pub mod server_timing;
pub mod source;
pub mod version;
pub mod voxels;

use std::sync::Arc;
use std::time::Instant;

use crate::config::dynamic;
use crate::observe::metrics::{Metrics, ModelRun, ModelSeries, Quality};
use feedback::Recorder;
use source::Source;
pub use version::Identity;

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
    /// Joins answers to the feedback that comes for them, and keeps their masks. `None`: nobody sends feedback.
    pub recorder: Option<Recorder>,
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
            recorder: None,
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
}

/// A number that stands for itself: `0.93`, `9.3e-1`, white space around it. `0,93` is none: it must not count as 0. NaN and
/// infinities are refused with all that is not from 0 to 1, by [`ModelSeries::sample`].
fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}
