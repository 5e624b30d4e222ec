//! The series about Gantry itself and what Traefik has none of: reloads, feedback, connections to servers, variants.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::cells::event;
use super::encode::{Encoder, Labels as Text};
use super::registry::Weights;
use super::render::{OWN, with_scope};
use super::servers::ScrapeError;
use super::sum::Sums;
use super::{Counter, Metrics, lock, own};

/// What became of the changes of the configuration.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    pub(super) applied: u64,
    pub(super) last_applied: Option<SystemTime>,
    pub(super) last_failed: bool,
    failed: u64,
    took: Option<Duration>,
}

/// What became of a request with feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedbackResult {
    /// It counts.
    Accepted,
    /// The token is missing or wrong.
    Unauthorized,
    /// Nobody knows the request that it is about, any more.
    Unknown,
    /// It cannot be read.
    Malformed,
    /// Its mask is of another geometry than the answer's.
    Geometry,
    /// It is larger than Gantry reads.
    TooLarge,
    /// It brings a mask, and the answer's was not kept.
    NoMask,
    /// It brings a mask, and too many are being compared.
    Busy,
}

impl FeedbackResult {
    /// Every result.
    pub const ALL: [Self; 8] = [
        Self::Accepted,
        Self::Unauthorized,
        Self::Unknown,
        Self::Malformed,
        Self::Geometry,
        Self::TooLarge,
        Self::NoMask,
        Self::Busy,
    ];

    /// The value of the label `result`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Unauthorized => "unauthorized",
            Self::Unknown => "unknown",
            Self::Malformed => "malformed",
            Self::Geometry => "geometry",
            Self::TooLarge => "too_large",
            Self::NoMask => "no_mask",
            Self::Busy => "busy",
        }
    }
}

/// The requests with feedback, by result.
#[derive(Debug, Default)]
pub(super) struct Feedback([Counter; FeedbackResult::ALL.len()]);

impl Metrics {
    /// Notes that a change of the configuration was applied (`ok`), or refused.
    pub fn reload(&self, ok: bool, now: SystemTime) {
        let mut reloads = lock(&self.reloads);
        reloads.last_failed = !ok;
        if ok {
            reloads.applied += 1;
            reloads.last_applied = Some(now);
        } else {
            reloads.failed += 1;
        }
    }

    /// Notes how long the reload took whose snapshot is served from now on.
    pub fn reload_took(&self, took: Duration) {
        lock(&self.reloads).took = Some(took);
    }

    /// Counts a request with feedback.
    pub fn feedback(&self, result: FeedbackResult) {
        self.feedback.0[result as usize].add(1);
    }

    pub(super) fn render_reloads(&self, encoder: &mut Encoder) {
        let reloads = lock(&self.reloads);
        encoder.family(OWN, own::RELOAD_DURATION);
        if let Some(took) = reloads.took {
            encoder.sample(&Text::default(), took.as_secs_f64());
        }
        encoder.family(OWN, own::RELOAD_FAILURES);
        encoder.count(&Text::default(), reloads.failed);
    }

    /// What the workers count without labels.
    pub(super) fn render_workers(&self, encoder: &mut Encoder) {
        let (mut overflow, mut idle) = (0, 0);
        for worker in lock(&self.workers).iter() {
            overflow += worker.overflow.load(Ordering::Relaxed);
            idle += worker.idle.load(Ordering::Relaxed);
        }
        encoder.family(OWN, own::OVERFLOW);
        encoder.count(&Text::default(), overflow);
        encoder.family(OWN, own::IDLE);
        encoder.count(&Text::default(), idle);
    }

    /// All results once there was one, so that none of them begins with a jump.
    pub(super) fn render_feedback(&self, encoder: &mut Encoder) {
        encoder.family(OWN, own::FEEDBACK);
        let counters = || FeedbackResult::ALL.iter().zip(&self.feedback.0);
        if counters().all(|(_, counter)| counter.get() == 0) {
            return;
        }
        for (result, counter) in counters() {
            encoder.count(&Text::default().with("result", result.as_str()), counter.get());
        }
    }

    pub(super) fn render_own_servers(&self, encoder: &mut Encoder) {
        let servers = lock(&self.servers);
        encoder.family(OWN, own::PROBES);
        for ((service, url), probes) in &servers.probes {
            for (result, counter) in [("failure", &probes.failed), ("success", &probes.succeeded)] {
                encoder.count(
                    &server(Text::default().with("result", result), service, url),
                    counter.get(),
                );
            }
        }
        encoder.family(OWN, own::SERVER_IN_FLIGHT);
        for ((service, url), served) in &servers.served {
            encoder.count(&server(Text::default(), service, url), served.load.in_flight() as u64);
        }
        encoder.family(OWN, own::SCRAPE_ERRORS);
        for ((service, url), served) in &servers.served {
            let counted = |reason: &ScrapeError| Some((*reason, *served.scrape_errors.get(reason)?));
            for (reason, count) in ScrapeError::ALL.iter().filter_map(counted) {
                encoder.count(
                    &server(Text::default().with("reason", reason.as_str()), service, url),
                    count,
                );
            }
        }
    }
}

fn server(text: Text, service: &str, url: &str) -> Text {
    text.with("service", service).with("url", url)
}

/// Connections from services to their servers.
pub(super) fn render_dialled(encoder: &mut Encoder, services: &Sums<'_>) {
    for (family, word) in [
        (own::DIAL_FAILED, event::DIAL_FAILED),
        (own::DIALLED, event::DIALLED),
        (own::REUSED, event::REUSED),
    ] {
        encoder.family(OWN, family);
        for (labels, words) in &services.events {
            encoder.count(&with_scope(Text::default(), labels), words[word]);
        }
    }
}

/// TLS handshakes of the entry points that had some.
pub(super) fn render_handshakes(encoder: &mut Encoder, entry_points: &Sums<'_>) {
    encoder.family(OWN, own::HANDSHAKES);
    for (labels, words) in &entry_points.events {
        let results = [
            ("failure", words[event::HANDSHAKE_FAILED]),
            ("success", words[event::HANDSHAKE]),
        ];
        if results.iter().all(|(_, count)| *count == 0) {
            continue;
        }
        for (result, count) in results {
            encoder.count(&with_scope(Text::default(), labels).with("result", result), count);
        }
    }
}

pub(super) fn render_weights(encoder: &mut Encoder, weights: &Weights) {
    encoder.family(OWN, own::VARIANT_WEIGHT);
    for ((service, variant), weight) in weights {
        let labels = Text::default().with("service", service).with("variant", variant);
        encoder.sample(&labels, *weight as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::cells::tests::done;
    use super::super::{Format, LINGER, MetricsOptions, RequestDone};
    use super::*;

    fn text(metrics: &Metrics, now: Instant) -> String {
        String::from_utf8(metrics.render(Format::Text004, now)).unwrap()
    }

    #[track_caller]
    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn variants_have_series_and_weights_until_they_are_gone() {
        let metrics = Metrics::new(MetricsOptions {
            prefix: "traefik".to_owned(),
            ..Default::default()
        });
        let (one, two) = (metrics.worker(), metrics.worker());
        let compile = |weights: &[(&str, i64)], now| {
            let resolve = |(variant, weight): &(&str, i64)| metrics.variant("w@file", variant, *weight);
            let handles: Vec<_> = weights.iter().map(resolve).collect();
            metrics.next_generation(now);
            handles
        };
        let now = Instant::now();
        let old = compile(&[("a@file", 90), ("b@file", 10), ("b@file", 0)], now);
        for (worker, variant) in [(&one, 0), (&two, 0), (&two, 1)] {
            worker.request(&RequestDone {
                variants: &old[variant..=variant],
                ..done(200, 1)
            });
        }
        let labels = |variant| {
            format!("{{code=\"200\",method=\"GET\",protocol=\"http\",service=\"w@file\",variant=\"{variant}\"}}")
        };
        let requests = |variant| format!("gantry_variant_requests_total{}", labels(variant));
        assert_lines(
            &text(&metrics, now),
            &[
                &format!("{} 2", requests("a@file")),
                &format!("{} 1", requests("b@file")),
                &format!("gantry_variant_responses_bytes_total{} 10", labels("a@file")),
                &format!("gantry_variant_request_duration_seconds_count{} 2", labels("a@file")),
                "gantry_variant_weight{service=\"w@file\",variant=\"a@file\"} 90",
                "gantry_variant_weight{service=\"w@file\",variant=\"b@file\"} 10",
            ],
        );
        let new = compile(&[("a@file", 0)], now);
        assert_eq!(new[0], old[0], "a reload keeps the cells");
        let shown = text(&metrics, now + LINGER / 2);
        assert_lines(
            &shown,
            &[
                &format!("{} 2", requests("a@file")),
                &format!("{} 1", requests("b@file")),
                "gantry_variant_weight{service=\"w@file\",variant=\"a@file\"} 0",
            ],
        );
        assert!(!shown.contains("weight{service=\"w@file\",variant=\"b@file\"}"));
        assert!(!shown.contains("traefik_variant"), "{shown}");
        let shown = text(&metrics, now + LINGER);
        assert_lines(&shown, &[&format!("{} 2", requests("a@file"))]);
        assert!(!shown.contains("b@file"), "{shown}");
        compile(&[], now);
        assert!(!text(&metrics, now + LINGER).contains("w@file"));
    }

    #[test]
    fn connections_handshakes_and_reloads() {
        let metrics = Metrics::new(MetricsOptions::default());
        let (one, two) = (metrics.worker(), metrics.worker());
        let (service, web) = (metrics.service("s@file"), metrics.entry_point("web"));
        one.dialled(service, true);
        two.dialled(service, true);
        two.dialled(service, false);
        for _ in 0..3 {
            one.connection_reused(service);
        }
        one.idle_connections().set(4);
        two.idle_connections().set(2);
        one.connection_opened(metrics.entry_point("plain"));
        one.handshake(web, true);
        two.handshake(web, false);
        two.handshake(web, false);
        metrics.reload(false, SystemTime::now());
        metrics.reload_took(Duration::from_millis(250));
        metrics.feedback(FeedbackResult::NoMask);
        let shown = text(&metrics, Instant::now());
        assert_lines(
            &shown,
            &[
                "gantry_service_connections_opened_total{service=\"s@file\"} 2",
                "gantry_service_connection_failures_total{service=\"s@file\"} 1",
                "gantry_service_connections_reused_total{service=\"s@file\"} 3",
                "gantry_upstream_connections_idle 6",
                "gantry_tls_handshakes_total{entrypoint=\"web\",result=\"success\"} 1",
                "gantry_tls_handshakes_total{entrypoint=\"web\",result=\"failure\"} 2",
                "gantry_config_reload_failures_total 1",
                "gantry_config_reload_duration_seconds 0.25",
                "gantry_feedback_requests_total{result=\"no_mask\"} 1",
                "gantry_feedback_requests_total{result=\"accepted\"} 0",
                "gantry_metrics_overflow_total 0",
            ],
        );
        assert!(!shown.contains("handshakes_total{entrypoint=\"plain\""));
    }
}
