//! The series about certificates that are asked for: their labels come from the configuration.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::encode::{Encoder, Labels as Text};
use super::render::OWN;
use super::{Metrics, lock, own, unix_seconds};

/// What became of orders, and what is planned, by resolver.
#[derive(Debug, Default)]
pub(super) struct Acme(BTreeMap<String, Resolver>);

#[derive(Debug, Default)]
struct Resolver {
    succeeded: u64,
    failed: u64,
    next: Vec<(String, SystemTime)>,
}

impl Metrics {
    /// Counts an attempt of a resolver to get a certificate.
    pub fn acme_order(&self, resolver: &str, ok: bool) {
        let mut acme = lock(&self.acme);
        let resolver = acme.0.entry(resolver.to_owned()).or_default();
        match ok {
            true => resolver.succeeded += 1,
            false => resolver.failed += 1,
        }
    }

    /// Replaces what a resolver plans: sets of names, each joined by commas, and when it will ask for them.
    pub fn set_acme_attempts(&self, resolver: &str, next: Vec<(String, SystemTime)>) {
        lock(&self.acme).0.entry(resolver.to_owned()).or_default().next = next;
    }

    pub(super) fn render_acme(&self, encoder: &mut Encoder) {
        let acme = lock(&self.acme);
        encoder.family(OWN, own::ACME_ORDERS);
        for (name, resolver) in &acme.0 {
            for (result, count) in [("failure", resolver.failed), ("success", resolver.succeeded)] {
                encoder.count(&Text::default().with("resolver", name).with("result", result), count);
            }
        }
        encoder.family(OWN, own::ACME_NEXT);
        for (name, resolver) in &acme.0 {
            for (domain, at) in &resolver.next {
                let labels = Text::default().with("domain", domain).with("resolver", name);
                encoder.sample(&labels, unix_seconds(*at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{Format, MetricsOptions};
    use super::*;

    #[test]
    fn orders_and_plans() {
        let metrics = Metrics::new(MetricsOptions::default());
        metrics.acme_order("le", true);
        metrics.acme_order("le", false);
        metrics.acme_order("le", false);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        metrics.set_acme_attempts("le", vec![("a.test,b.test".to_owned(), at)]);
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        for line in [
            "gantry_acme_orders_total{resolver=\"le\",result=\"success\"} 1",
            "gantry_acme_orders_total{resolver=\"le\",result=\"failure\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let planned = "gantry_acme_next_attempt_timestamp_seconds{domain=\"a.test,b.test\",resolver=\"le\"} ";
        assert!(text.contains(planned), "{text}");
    }
}
