//! The forms in which `/metrics` answers, and that a real Prometheus reads them.

use std::io::Read;

use crate::harness::client::Request;
use crate::harness::*;

const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

fn scrape(gateway: &Gateway, headers: &[(&str, &str)]) -> Reply {
    let request = Request::new(gateway.admin_address(), "GET", "/metrics");
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(name, value));
    let reply = request.send();
    reply.assert_status(200);
    reply
}

/// The names of the families of a protobuf answer, read by nothing but the length before each and its first field.
fn families(mut bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while !bytes.is_empty() {
        let (mut length, mut shift) = (0, 0);
        while let Some((byte, rest)) = bytes.split_first() {
            bytes = rest;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (family, rest) = bytes.split_at(length);
        assert_eq!(family[0], 1 << 3 | 2, "the name comes first");
        names.push(String::from_utf8(family[2..2 + usize::from(family[1])].to_vec()).unwrap());
        bytes = rest;
    }
    names
}

#[test]
fn the_scraper_chooses_the_format_and_gzip() {
    only_gantry!();
    let gateway = gateway().run();
    let text = scrape(&gateway, &[]);
    assert_eq!(text.header("content-encoding"), None);
    assert_eq!(
        scrape(&gateway, &[("Accept-Encoding", "gzip;q=0, identity")]).header("content-encoding"),
        None
    );
    for (accept, kind) in [
        ("*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        (
            PROTOBUF,
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
        ),
    ] {
        let reply = scrape(&gateway, &[("Accept", accept)]);
        assert!(
            reply.header("content-type").is_some_and(|it| it.starts_with(kind)),
            "{reply:?}"
        );
        let packed = scrape(
            &gateway,
            &[("Accept", accept), ("Accept-Encoding", "gzip, identity;q=0")],
        );
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert_eq!(packed.header("content-type"), reply.header("content-type"));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed.body.bytes[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        assert!(packed.body.bytes.len() < unpacked.len());
        for name in ["gantry_build_info", "process_resident_memory_bytes"] {
            if accept == PROTOBUF {
                assert!(families(&unpacked).iter().any(|family| family == name), "{name}");
            } else {
                assert!(String::from_utf8_lossy(&unpacked).contains(name), "{name}");
            }
        }
    }
    let head = Request::new(gateway.admin_address(), "HEAD", "/metrics")
        .header("Accept-Encoding", "gzip")
        .send();
    assert_eq!((head.status, head.body.bytes.len()), (200, 0));
}

#[test]
fn many_scrapers_at_once_are_all_answered() {
    only_gantry!();
    let gateway = gateway().run();
    std::thread::scope(|scope| {
        for n in 0..40 {
            let gateway = &gateway;
            scope.spawn(move || {
                let accept = ["text/plain", "application/openmetrics-text", PROTOBUF][n % 3];
                for _ in 0..5 {
                    assert!(!scrape(gateway, &[("Accept", accept)]).body.bytes.is_empty());
                }
            });
        }
    });
}

/// What a label value from a file may hold at worst: the configuration refuses control characters.
const EVIL: &str = "a\"b\\c\\nd{e}é,f=\"g\\";

/// A gateway with one model, whose name is [`EVIL`].
fn evil_model() -> (Backend, Gateway) {
    let backend = Backend::answering(|_| Answer::new(200).header("X-Model-Dice", "0.5").body("mask"));
    let model = format!(
        "model: {{name: {}, version: \"1\"}}, accuracy: [{{from: header, name: X-Model-Dice, label: dice}}]",
        serde_json::to_string(EVIL).unwrap()
    );
    let yaml =
        gateway::all_to(&[&backend.url()]).replace("{s: {loadBalancer", &format!("{{s: {{{model}, loadBalancer"));
    let gateway = gateway().dynamic(&yaml).run();
    gateway.post("/", "volume").send().assert_status(200);
    assert_eventually!(gateway.metric(&["model_requests_total{"]) == Some(1.0));
    (backend, gateway)
}

fn config(gateway: &Gateway) -> String {
    format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: gantry, static_configs: [{{targets: [\"{}\"]}}]}}]\n",
        gateway.admin_address()
    )
}

#[test]
fn prometheus_reads_native_histograms() {
    only_gantry!();
    let (_backend, gateway) = evil_model();
    let Some(prometheus) = Prometheus::start(&config(&gateway), &["--enable-feature=native-histograms"]) else {
        return;
    };
    let series = r#"gantry_service_request_duration_seconds{code="200",service="s@file"}"#;
    let value = |query: &str| prometheus.value(query);
    assert_eventually!(
        value(&format!("histogram_count({series})")) == Some(1.0),
        "{}",
        prometheus.log()
    );
    // One request: the sum is its time, and every quantile is in the same bucket.
    let time = value(&format!("histogram_sum({series})")).unwrap();
    let median = value(&format!("histogram_quantile(0.5, {series})")).unwrap();
    assert!(median > time / 1.0906 && median < time * 1.0906, "{median} {time}");
    assert_eq!(value("histogram_count(model_inference_duration_seconds)"), Some(1.0));
    let accuracy = value("histogram_quantile(1, model_accuracy_samples)").unwrap();
    assert!((accuracy - 0.5).abs() < 1e-9, "the bucket's upper bound: {accuracy}");
    assert_eq!(
        value("histogram_fraction(0.458, 0.501, model_accuracy_samples)"),
        Some(1.0)
    );
    let requests = prometheus.query("model_requests_total");
    assert_eq!((&requests[0].0["model"], requests[0].1), (&EVIL.into(), 1.0));
    assert_eq!(value("scrape_samples_scraped > 20").map(f64::is_finite), Some(true));
}

#[test]
fn prometheus_reads_openmetrics() {
    only_gantry!();
    let (_backend, gateway) = evil_model();
    let Some(prometheus) = Prometheus::start(&config(&gateway), &[]) else {
        return;
    };
    let count = r#"gantry_service_request_duration_seconds_bucket{code="200",service="s@file",le="+Inf"}"#;
    assert_eventually!(prometheus.value(count) == Some(1.0), "{}", prometheus.log());
    let requests = prometheus.query("model_requests_total");
    assert_eq!((&requests[0].0["model"], requests[0].1), (&EVIL.into(), 1.0));
}
