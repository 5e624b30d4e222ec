//! Where samples of accuracy and confidence come from, compiled.

use std::time::Duration;

use ::http::HeaderName;

use super::json::Pointer;
use crate::config::dynamic::{SampleOrigin, SampleSource};
use crate::observe::metrics::Quality;

/// One entry of a service's `accuracy` or `confidence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Which of the two it is.
    pub quality: Quality,
    /// Where the number is.
    pub origin: Origin,
    /// Value of the `label` label.
    pub label: String,
}

/// Where the number is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A header of the answer.
    Header(HeaderName),
    /// A trailer of the answer.
    Trailer(HeaderName),
    /// The answer's body, or one part of it.
    Json {
        /// RFC 6901.
        pointer: Pointer,
        /// Name of the part of a multipart answer; empty: the first of a JSON type.
        part: String,
        /// Most bytes of JSON, decompressed.
        max_bytes: usize,
    },
    /// The server's own metrics.
    Scrape {
        /// Their path.
        path: String,
        /// `name` or `name{label="value"}`.
        gauge: String,
        /// From one scrape to the next.
        interval: Duration,
    },
}

impl Source {
    /// Compiles an entry; `None` where its name is no header or its pointer none, which the configuration has refused already.
    #[must_use]
    pub fn new(quality: Quality, settings: &SampleSource) -> Option<Self> {
        let origin = match settings.from {
            SampleOrigin::Header => Origin::Header(HeaderName::try_from(&settings.name).ok()?),
            SampleOrigin::Trailer => Origin::Trailer(HeaderName::try_from(&settings.name).ok()?),
            SampleOrigin::Json => Origin::Json {
                pointer: Pointer::parse(&settings.pointer)?,
                part: settings.part.clone(),
                max_bytes: usize::try_from(settings.max_bytes).unwrap_or(usize::MAX),
            },
            SampleOrigin::Scrape => Origin::Scrape {
                path: settings.path.clone(),
                gauge: settings.gauge.clone(),
                interval: settings.interval,
            },
        };
        Some(Self {
            quality,
            origin,
            label: settings.label.clone(),
        })
    }
}
