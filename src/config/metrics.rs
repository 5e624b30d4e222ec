//! `metrics`, `feedback` and `ping`.

use std::collections::BTreeMap;

use super::decode::Decoder;
use super::format::{Buckets, HeaderLabels, KnownStatus, MetricPrefix};
use super::node::Node;

settings! {
    /// Metrics.
    pub struct Metrics [empty] {
        /// Whether requests to internal services (ping, metrics) are counted. Default: false.
        "addInternals" => add_internals: bool;
        /// Prometheus' text format, to be scraped.
        "prometheus" => prometheus: Option<Prometheus>;
    }
    unsupported {
        "otlp": "`prometheus`, scraped by a collector";
        "datadog": "`prometheus`, scraped by Datadog's agent";
        "statsD": "`prometheus`, scraped by a collector";
        "influxDB2": "`prometheus`, scraped by Telegraf";
    }
}

settings! {
    /// Prometheus' text format, to be scraped at `/metrics`.
    pub struct Prometheus [empty] {
        /// First part of the names of the series: `gantry` (the default), or `traefik`, with which Traefik's dashboards
        /// and alerts work unchanged.
        "prefix" => prefix: String as MetricPrefix = "gantry".to_owned();
        /// Upper bounds of the histograms' buckets, seconds. Default: 0.1, 0.3, 1.2, 5.
        "buckets" => buckets: Vec<f64> as Buckets = vec![0.1, 0.3, 1.2, 5.0];
        /// Whether there are series by entry point. Default: true.
        "addEntryPointsLabels" => add_entry_points_labels: bool = true;
        /// Whether there are series by router. Default: false.
        "addRoutersLabels" => add_routers_labels: bool;
        /// Whether there are series by service. Default: true.
        "addServicesLabels" => add_services_labels: bool = true;
        /// Entry point that serves `/metrics`. Default: `traefik`, made on :8080 where it lacks.
        "entryPoint" => entry_point: String = "traefik".to_owned();
        /// Whether only a router with the service `prometheus@internal` serves it. Default: false.
        "manualRouting" => manual_routing: bool;
        /// Labels of `*_requests_total` whose values are request headers: label name to header. At most 100 values of a
        /// label are told apart; further ones count as `other`.
        "headerLabels" => header_labels: BTreeMap<String, String> as HeaderLabels;
    }
}

settings! {
    /// Accuracy that somebody who knows the truth sends afterwards: `POST /feedback/{request-id}`.
    pub struct Feedback {
        /// Entry point that serves it. Default: `traefik`, made on :8080 where it lacks.
        "entryPoint" => entry_point: String = "traefik".to_owned();
        /// File that holds the token which a sender shows as `Authorization: Bearer …`. Needed.
        "tokenFile" => token_file: String;
    }
    check check_feedback;
}

settings! {
    /// `/ping` answers 200 `OK`.
    pub struct Ping [empty] {
        /// Entry point that serves it. Default: `traefik`, made on :8080 where it lacks.
        "entryPoint" => entry_point: String = "traefik".to_owned();
        /// Whether only a router with the service `ping@internal` serves it. Default: false.
        "manualRouting" => manual_routing: bool;
        /// Status while Gantry drains. Default: 503.
        "terminatingStatusCode" => terminating_status_code: u16 as KnownStatus = 503;
    }
}

fn check_feedback(feedback: &Feedback, _: &Node, decoder: &mut Decoder<'_>) {
    if feedback.token_file.is_empty() {
        let message = "`feedback` has no `tokenFile`: anybody could make up a model's accuracy";
        decoder.error(decoder.here(), message, "add tokenFile: /run/secrets/feedback");
    }
}
