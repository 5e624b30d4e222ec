//! What makes a service a *model*: the parts of `http.services.NAME` that Traefik does not have.

use std::time::Duration;

use super::decode::Decoder;
use super::format::{AbsolutePath, ByteSize, HeaderName, JsonPointer, Label, MetricSelector, Positive, StageName};
use super::node::Node;
use super::scalar::List;

/// Most stages of `Server-Timing` that a service may name: each is a histogram for each version.
const MAX_STAGES: usize = 32;

settings! {
    /// The model behind a service: what its requests are counted under.
    pub struct ModelName {
        /// Label `model`. Needed.
        "name" => name: String as Label;
        /// Label `version`. Default: empty.
        "version" => version: String as Label;
    }
    check check_model;
}

settings! {
    /// One source of accuracy or confidence samples. A sample is a number from 0 to 1.
    pub struct SampleSource {
        /// Where the sample is found. Needed.
        "from" => from: SampleOrigin;
        /// `header`, `trailer`: name of the field of the answer. Needed there.
        "name" => name: String as HeaderName;
        /// `json`: JSON pointer (RFC 6901) to the number in the answer's body. Needed there.
        "pointer" => pointer: String as JsonPointer;
        /// `json`: name of the part that holds the JSON, where the answer is multipart. Default: the first part of a JSON
        /// type.
        "part" => part: String as Label;
        /// `json`: most bytes of JSON, once decompressed. Default: 1 MiB.
        "maxBytes" => max_bytes: u64 as ByteSize = 1 << 20;
        /// `scrape`: path of the server's metrics. Default: `/metrics`.
        "path" => path: String as AbsolutePath = "/metrics".to_owned();
        /// `scrape`: the gauge, as `name` or `name{label="value"}`. Needed there.
        "gauge" => gauge: String as MetricSelector;
        /// `scrape`: time from one scrape to the next. Default: 15 s.
        "interval" => interval: Duration as Positive = Duration::from_secs(15);
        /// Label `label` of the series. Default: empty.
        "label" => label: String as Label;
    }
    check check_sample_source;
}

choices! {
    /// Where a sample is found.
    pub enum SampleOrigin {
        /// In a header of the answer.
        #[default]
        "header" => Header;
        /// In a trailer of the answer.
        "trailer" => Trailer;
        /// In the answer's body, or in one of its parts.
        "json" => Json;
        /// In the server's own metrics, which Gantry scrapes.
        "scrape" => Scrape;
    }
}

settings! {
    /// Keeps the masks of a model's answers for a while. Masks are patients' data: decide where, and for how long.
    pub struct KeepMasks [empty] {
        /// Most bytes that are kept for the service; the oldest masks make room. Default: 256 MiB.
        "maxBytes" => max_bytes: u64 as ByteSize = 256 << 20;
        /// How long a mask is kept. Default: 24 h.
        "for" => keep_for: Duration as Positive = Duration::from_secs(24 * 60 * 60);
        /// Folder on disk, for Gantry alone. Default: none; masks are kept in memory.
        "dir" => dir: String;
    }
}

settings! {
    /// What is read of the servers' `Server-Timing`.
    pub struct ServerTiming {
        /// Names of the metrics that get a histogram; no others do.
        "stages" => stages: Vec<String> as List<StageName>;
        /// Whether Gantry adds its own part for the client: `gantry;dur=…, upstream;dur=…`. Default: false.
        "toClient" => to_client: bool;
    }
    check check_server_timing;
}

settings! {
    /// Where the servers' own metrics are.
    pub struct ServiceMetrics [empty] {
        /// Path on each server. Default: `/metrics`.
        "path" => path: String as AbsolutePath = "/metrics".to_owned();
    }
}

fn check_model(model: &ModelName, _: &Node, decoder: &mut Decoder<'_>) {
    if model.name.is_empty() {
        decoder.invalid(
            decoder.here(),
            "`model` has no `name`",
            "add one, such as name: mri-segmentation",
        );
    }
}

fn check_sample_source(source: &SampleSource, node: &Node, decoder: &mut Decoder<'_>) {
    let has = |key: &str| node.entries().iter().any(|entry| entry.key.eq_ignore_ascii_case(key));
    if !has("from") {
        let help = "add from: header, trailer, json or scrape";
        decoder.invalid(decoder.here(), "a source of samples has no `from`", help);
        return;
    }
    let (needed, given, example, belong): (_, _, _, &[&str]) = match source.from {
        SampleOrigin::Header => ("name", !source.name.is_empty(), "name: X-Model-Dice", &["name"]),
        SampleOrigin::Trailer => ("name", !source.name.is_empty(), "name: X-Model-Dice", &["name"]),
        SampleOrigin::Json => {
            let belong = &["pointer", "part", "maxBytes"];
            ("pointer", has("pointer"), "pointer: /metrics/dice", belong)
        }
        SampleOrigin::Scrape => {
            let belong = &["path", "gauge", "interval"];
            ("gauge", !source.gauge.is_empty(), "gauge: validation_dice", belong)
        }
    };
    let from = source.from.as_str();
    if !given {
        let message = format!("a source `from: {from}` has no `{needed}`");
        decoder.invalid(decoder.here(), message, format!("add {example}"));
    }
    for entry in node.entries() {
        let is = |key: &&str| entry.key.eq_ignore_ascii_case(key);
        if !belong.iter().chain(&["from", "label"]).any(is) {
            let message = format!("`{}` has no effect with `from: {from}`", entry.key);
            decoder.warn(
                entry.key_span.clone(),
                message,
                format!("`{from}` takes {}", list(belong)),
            );
        }
    }
}

fn list(keys: &[&str]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    keys.join(", ")
}

fn check_server_timing(timing: &ServerTiming, _: &Node, decoder: &mut Decoder<'_>) {
    if timing.stages.len() > MAX_STAGES {
        let message = format!("{} stages are too many", timing.stages.len());
        let help = format!("name {MAX_STAGES} at most: each is a histogram for each version");
        decoder.invalid(decoder.here(), message, help);
    }
}
