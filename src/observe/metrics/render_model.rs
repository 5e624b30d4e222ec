//! The part of a scrape that is about models.

use super::encode::{Encoder, Family, Labels as Text};
use super::model::{Dropped, FeedbackKind, Histogram, ModelLabels, Quality, QualityReading, Reading};
use super::models;

/// A version, its labels as text, and its values.
struct Version<'a> {
    labels: &'a ModelLabels,
    text: Text,
    reading: &'a Reading,
}

impl Version<'_> {
    /// The version's labels with one more that stands before `model` in the alphabet.
    fn before(&self, name: &str, value: &str) -> Text {
        rest(
            Text::default().with(name, value).with("model", &self.labels.model),
            self.labels,
        )
    }

    /// The version's labels with one more that stands between `model` and `service`.
    fn within(&self, name: &str, value: &str) -> Text {
        rest(
            Text::default().with("model", &self.labels.model).with(name, value),
            self.labels,
        )
    }
}

fn rest(text: Text, labels: &ModelLabels) -> Text {
    text.with("service", &labels.service).with("version", &labels.version)
}

/// Writes the series of all versions, families in alphabetical order.
pub(super) fn render(encoder: &mut Encoder, all: &[(ModelLabels, Reading)]) {
    let versions: Vec<_> = all
        .iter()
        .map(|(labels, reading)| Version {
            labels,
            text: rest(Text::default().with("model", &labels.model), labels),
            reading,
        })
        .collect();
    quality(encoder, &versions);
    traffic(encoder, &versions);
    feedback(encoder, &versions);
}

fn quality(encoder: &mut Encoder, versions: &[Version<'_>]) {
    let each = |quality: Quality| {
        versions.iter().flat_map(move |version| {
            let readings = version.reading.quality.iter();
            readings
                .filter(move |reading| reading.quality == quality)
                .map(move |reading| (version, reading))
        })
    };
    let text = |version: &Version<'_>, reading: &QualityReading| {
        Text::default()
            .with("label", &reading.label)
            .with("model", &version.labels.model)
            .with("service", &version.labels.service)
            .with("source", reading.source.as_str())
            .with("version", &version.labels.version)
    };
    let gauges =
        |encoder: &mut Encoder, family: Family, quality: Quality, value: fn(&QualityReading) -> Option<f64>| {
            encoder.family("", family);
            for (version, reading) in each(quality) {
                if let Some(value) = value(reading) {
                    encoder.sample(&text(version, reading), value);
                }
            }
        };
    let samples = |encoder: &mut Encoder, family: Family, quality: Quality| {
        encoder.family("", family);
        for (version, reading) in each(quality) {
            histogram(encoder, &text(version, reading), &reading.samples);
        }
    };
    gauges(encoder, models::ACCURACY, Quality::Accuracy, |reading| reading.value);
    gauges(encoder, models::ACCURACY_AGE, Quality::Accuracy, |reading| {
        Some(reading.age?.as_secs_f64())
    });
    encoder.family("", models::REJECTED);
    for version in versions {
        for (source, reason, count) in &version.reading.rejected {
            let text = Text::default()
                .with("model", &version.labels.model)
                .with("reason", reason.as_str())
                .with("service", &version.labels.service)
                .with("source", source.as_str());
            encoder.count(&text.with("version", &version.labels.version), *count);
        }
    }
    samples(encoder, models::ACCURACY_SAMPLES, Quality::Accuracy);
    gauges(encoder, models::CONFIDENCE, Quality::Confidence, |reading| {
        reading.value
    });
    samples(encoder, models::CONFIDENCE_SAMPLES, Quality::Confidence);
}

fn traffic(encoder: &mut Encoder, versions: &[Version<'_>]) {
    encoder.family("", models::IN_FLIGHT);
    for version in versions {
        encoder.count(&version.text, version.reading.in_flight);
    }
    fn codes<'a>(version: &Version<'a>) -> Vec<(Text, &'a Histogram)> {
        let codes = version.reading.codes.iter();
        let named = codes.map(|(code, histogram)| {
            let code = version.before("code", itoa::Buffer::new().format(*code));
            (code, histogram)
        });
        named.collect()
    }
    encoder.family("", models::DURATION);
    for version in versions {
        for (text, durations) in codes(version) {
            histogram(encoder, &text, durations);
        }
    }
    encoder.family("", models::TIME);
    for version in versions {
        if let Some(time) = version.reading.time {
            encoder.sample(&version.text, time);
        }
    }
    counters(encoder, models::REQUEST_BYTES, versions, |reading| {
        Some(reading.request_bytes)
    });
    encoder.family("", models::REQUESTS);
    for version in versions {
        for (text, durations) in codes(version) {
            encoder.count(&text, durations.count());
        }
    }
    counters(encoder, models::RESPONSE_BYTES, versions, |reading| {
        Some(reading.response_bytes)
    });
    encoder.family("", models::STAGE);
    for version in versions {
        for (stage, durations) in &version.reading.stages {
            let text = Text::default()
                .with("model", &version.labels.model)
                .with("service", &version.labels.service)
                .with("stage", stage);
            histogram(encoder, &text.with("version", &version.labels.version), durations);
        }
    }
    counters(encoder, models::VOXELS, versions, |reading| {
        Some(reading.voxels).filter(|voxels| *voxels > 0)
    });
}

fn feedback(encoder: &mut Encoder, versions: &[Version<'_>]) {
    encoder.family("", models::BOTH_EMPTY);
    for version in versions {
        for (label, count) in &version.reading.both_empty {
            encoder.count(&version.before("label", label), *count);
        }
    }
    encoder.family("", models::FEEDBACK);
    for version in versions {
        for kind in FeedbackKind::ALL {
            let count = version.reading.feedback[kind as usize];
            if count > 0 {
                encoder.count(&version.before("kind", kind.as_str()), count);
            }
        }
    }
    counters(encoder, models::MASKS, versions, |reading| Some(reading.masks?[0]));
    counters(encoder, models::MASK_BYTES, versions, |reading| Some(reading.masks?[1]));
    encoder.family("", models::MASKS_DROPPED);
    for version in versions.iter().filter(|version| version.reading.masks.is_some()) {
        for why in Dropped::ALL {
            let count = version.reading.masks_dropped[why as usize];
            encoder.count(&version.within("reason", why.as_str()), count);
        }
    }
}

/// One whole number for each version that has it.
fn counters(encoder: &mut Encoder, family: Family, versions: &[Version<'_>], value: fn(&Reading) -> Option<u64>) {
    encoder.family("", family);
    for version in versions {
        if let Some(value) = value(version.reading) {
            encoder.count(&version.text, value);
        }
    }
}

fn histogram(encoder: &mut Encoder, text: &Text, histogram: &Histogram) {
    encoder.histogram(
        text,
        histogram.bounds,
        &histogram.counts,
        histogram.sum,
        &histogram.native,
    );
}
