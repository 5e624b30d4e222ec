//! `/metrics`, `/ping` and the access log (reference, B4).

use std::os::unix::fs::PermissionsExt as _;

use gantry::imaging::nifti::{Geometry, Voxels, encode};

use crate::harness::*;

#[test]
fn requests_are_counted_by_entry_point_router_and_service() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    for _ in 0..3 {
        gateway.get("/").send().assert_status(200);
    }
    gateway.post("/?status=503", "abc").send().assert_status(503);
    let prefix = gateway::prefix();
    let value = |name: &str, labels: &[&str]| {
        let name = format!("{prefix}_{name}{{");
        let parts: Vec<_> = std::iter::once(name.as_str()).chain(labels.iter().copied()).collect();
        gateway.metric(&parts)
    };
    let get = ["code=\"200\"", "method=\"GET\"", "protocol=\"http\""];
    let with = |more: &[&'static str]| [&get[..], more].concat();
    assert_eventually!(value("entrypoint_requests_total", &with(&["entrypoint=\"web\""])) == Some(3.0));
    assert_eq!(
        value(
            "router_requests_total",
            &with(&["router=\"r@file\"", "service=\"s@file\""])
        ),
        Some(3.0)
    );
    assert_eq!(
        value("service_requests_total", &with(&["service=\"s@file\""])),
        Some(3.0)
    );
    let post = ["code=\"503\"", "method=\"POST\"", "service=\"s@file\""];
    assert_eq!(value("service_requests_total", &post), Some(1.0));
    assert_eq!(value("service_requests_bytes_total", &post), Some(3.0));
    assert_eq!(value("service_request_duration_seconds_count", &post), Some(1.0));
    assert_eq!(
        value("service_responses_bytes_total", &with(&["service=\"s@file\""])),
        Some(15.0)
    );
    assert_eq!(
        value(
            "service_request_duration_seconds_bucket",
            &with(&["service=\"s@file\"", "le=\"+Inf\""])
        ),
        Some(3.0)
    );
    assert!(gateway.metric(&[&format!("{prefix}_config_reloads_total")]) >= Some(1.0));
    assert!(value("open_connections", &["entrypoint=\"web\"", "protocol=\"TCP\""]).is_some());
}

#[test]
fn what_has_no_router_is_counted_at_the_entry_point() {
    let gateway = gateway().run();
    gateway.get("/").send().assert_status(404);
    let name = format!("{}_entrypoint_requests_total{{", gateway::prefix());
    assert_eventually!(gateway.metric(&[&name, "code=\"404\"", "entrypoint=\"web\""]) == Some(1.0));
}

#[test]
fn labels_never_come_from_a_request() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    for i in 0..20 {
        let request = gateway.request(&format!("MADEUP{i}"), &format!("/secret-path-{i}"));
        request.host(&format!("secret-host-{i}")).send().assert_status(200);
    }
    let name = format!("{}_service_requests_total{{", gateway::prefix());
    assert_eventually!(gateway.metric(&[&name, "method=\"EXTENSION_METHOD\""]) == Some(20.0));
    let text = gateway.admin("/metrics").text();
    assert!(!text.contains("secret") && !text.contains("MADEUP"), "{text}");
}

/// Two versions behind weights, each with all that can be configured for a model; `{one}` and `{two}` are their servers.
const EVERYTHING: &str = r#"
tls: {certificates: [{certFile: "{dir}/a.pem", keyFile: "{dir}/a.key"}]}
http:
  routers:
    r: {rule: "PathPrefix(`/`)", service: w}
    s: {rule: "PathPrefix(`/`)", service: w, tls: {}}
  services:
    w: {weighted: {services: [{name: old, weight: 1}, {name: new, weight: 1}]}}
    old:
      model: {name: seg, version: "1"}
      accuracy: [{from: header, name: X-Model-Dice, label: dice}]
      confidence: [{from: header, name: X-Model-Sure, label: dice}]
      serverTiming: {stages: [infer]}
      metrics: {path: /none}
      keepMasks: {}
      loadBalancer: {healthCheck: {path: /health, interval: 100ms}, servers: [{url: "{one}"}]}
    new:
      model: {name: seg, version: "2"}
      accuracy:
        - {from: header, name: X-Model-Dice, label: dice}
        - {from: scrape, gauge: validation_dice, interval: 100ms, label: validation}
      loadBalancer: {servers: [{url: "{two}"}, {url: "{down}"}]}
"#;

/// One series of each kind that [`EVERYTHING`] has.
const KINDS: &[&str] = &[
    "gantry_config_reload_failures_total 1",
    "gantry_entrypoint_requests_total{",
    "gantry_entrypoint_requests_tls_total{",
    "gantry_feedback_requests_total{",
    "gantry_router_requests_total{",
    "gantry_scrape_errors_total{",
    "gantry_service_connection_failures_total{",
    "gantry_service_connections_opened_total{",
    "gantry_service_request_duration_seconds_bucket{",
    "gantry_service_server_in_flight{",
    "gantry_service_server_probes_total{",
    "gantry_service_server_up{",
    "gantry_tls_certs_not_after{",
    "gantry_tls_handshakes_total{",
    "gantry_upstream_connections_idle",
    "gantry_variant_request_duration_seconds_bucket{",
    "gantry_variant_requests_total{",
    "gantry_variant_weight{",
    "model_accuracy_age_seconds{",
    "model_accuracy_rejected_total{",
    "model_accuracy_samples_bucket{",
    "model_confidence_samples_bucket{",
    "model_confidence{",
    "model_feedback_both_empty_total{",
    "model_feedback_total{",
    "model_in_flight{",
    "model_inference_duration_seconds_bucket{",
    "model_inference_time_seconds{",
    "model_masks_dropped_total{",
    "model_masks_kept{",
    "model_requests_total{",
    "model_stage_duration_seconds_bucket{",
    "model_voxels_total{",
    "process_resident_memory_bytes",
];

/// A gateway on which all of [`EVERYTHING`] has happened, and the servers that stay.
fn everything() -> (Gateway, [Backend; 2]) {
    let empty = encode(
        &Geometry::centred([2, 1, 1], [1.0; 3]),
        "",
        Voxels::Uint8(&[0, 0]),
        false,
    )
    .unwrap();
    let mask = empty.clone();
    let one = Backend::answering(move |seen| match seen.path() {
        "/none" => Answer::new(404),
        _ => Answer::new(200)
            .header("Content-Type", "application/octet-stream")
            .body(mask.clone())
            .header("X-Model-Dice", "0.93")
            .header("X-Model-Sure", "0.5")
            .header("Server-Timing", "infer;dur=250"),
    });
    let two = Backend::answering(|seen| match seen.path() {
        "/metrics" => Answer::new(200).body("validation_dice 0.9\n"),
        _ => Answer::new(200).header("X-Model-Dice", "rubbish"),
    });
    let yaml = EVERYTHING
        .replace("{one}", &one.url())
        .replace("{two}", &two.url())
        .replace("{down}", &format!("http://{}", Backend::down()));
    let setup = gateway().file("token", "a-token-of-the-radiology\n");
    certificate::Certificate::of(&["a.test"]).write(setup.dir(), "a");
    let mine = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(setup.dir().join("token"), mine).unwrap();
    let gateway = setup
        .dynamic(&yaml)
        .top("feedback: {tokenFile: \"{dir}/token\"}")
        .metrics("metrics: {prometheus: {addRoutersLabels: true, headerLabels: {site: X-Site}}}")
        .run();
    for _ in 0..6 {
        let request = gateway.post("/", empty.clone()).header("X-Site", "north");
        let reply = request.send();
        if reply.header("x-model-sure").is_some() {
            let target = format!("/feedback/{}", reply.header("x-request-id").unwrap());
            let told = client::Request::new(gateway.admin_address(), "POST", &target)
                .header("Authorization", "Bearer a-token-of-the-radiology")
                .body(empty.clone());
            told.send().assert_status(200);
        }
    }
    gateway.tls("a.test").connect().get("/");
    gateway.admin("/federate").assert_status(200);
    gateway.edit("http: {routers: {r: {rulle: x}}}");
    (gateway, [one, two])
}

#[test]
fn promtool_has_nothing_to_say_of_any_series() {
    only_gantry!();
    let (gateway, _servers) = everything();
    let text = || gateway.admin("/metrics").text();
    for kind in KINDS {
        assert_eventually!(text().contains(&format!("\n{kind}")), "{kind}\n{}", text());
    }
    let scraped = "source=\"scraped\"";
    assert_eventually!(gateway.metric(&["model_accuracy{", scraped]) == Some(0.9));
    let reply = gateway.admin("/metrics");
    let kind = reply.header("content-type");
    assert!(kind.is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    peer::promtool_reads(&reply.text());
}

const MODEL: &str = "model: {name: seg, version: \"1.2\"}, accuracy: [{from: header, name: X-Model-Dice, label: dice}]";

#[test]
fn a_model_has_series_of_its_own() {
    only_gantry!();
    let backend = Backend::answering(|_| Answer::new(200).header("X-Model-Dice", "0.5").body("mask"));
    let yaml =
        gateway::all_to(&[&backend.url()]).replace("{s: {loadBalancer", &format!("{{s: {{{MODEL}, loadBalancer"));
    let gateway = gateway().dynamic(&yaml).run();
    gateway.post("/", "volume").send().assert_status(200);
    backend.set(|_| Answer::new(200).header("X-Model-Dice", "1.0").body("mask"));
    gateway.post("/", "volume").send().assert_status(200);
    backend.set(|_| Answer::new(200).header("X-Model-Dice", "rubbish").body("mask"));
    gateway.post("/", "volume").send().assert_status(200);
    let labels = ["model=\"seg\"", "version=\"1.2\"", "service=\"s@file\""];
    let value = |name: &str, more: &[&str]| {
        let parts: Vec<_> = std::iter::once(name)
            .chain(labels)
            .chain(more.iter().copied())
            .collect();
        gateway.metric(&parts)
    };
    assert_eventually!(value("model_requests_total{", &["code=\"200\""]) == Some(3.0));
    assert_eq!(value("model_request_bytes_total{", &[]), Some(18.0));
    assert_eq!(value("model_response_bytes_total{", &[]), Some(12.0));
    assert_eq!(
        value("model_accuracy{", &["source=\"reported\"", "label=\"dice\""]),
        Some(0.75)
    );
    assert_eq!(value("model_accuracy_samples_count{", &["label=\"dice\""]), Some(2.0));
    assert_eq!(
        value("model_inference_duration_seconds_count{", &["code=\"200\""]),
        Some(3.0)
    );
    assert!(value("model_inference_time_seconds{", &[]).is_some_and(|mean| mean > 0.0 && mean < 5.0));
    assert_eq!(value("model_in_flight{", &[]), Some(0.0));
}

#[test]
fn the_prefix_can_be_traefiks() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .metrics("metrics: {prometheus: {prefix: traefik}}")
        .run();
    gateway.get("/").send().assert_status(200);
    assert_eventually!(
        gateway
            .metric(&["traefik_service_requests_total{", "service=\"s@file\""])
            .is_some()
    );
    let text = gateway.admin("/metrics").text();
    assert!(!text.contains("gantry_service_requests_total"), "{text}");
}

#[test]
fn openmetrics_only_when_asked_for() {
    only_gantry!();
    let gateway = gateway().run();
    let plain = gateway.admin("/metrics");
    assert!(!plain.text().contains("# EOF"));
    let asked = gateway.admin_with("/metrics", "Accept", "application/openmetrics-text; version=1.0.0");
    assert!(
        asked
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
    );
    assert!(asked.text().ends_with("# EOF\n"));
}

#[test]
fn admin_endpoints_are_on_their_entry_point_only() {
    let gateway = gateway().run();
    gateway.admin("/ping").assert_status(200).assert_body("OK");
    gateway.admin("/metrics").assert_status(200);
    for target in ["/ping", "/metrics", "/api/rawdata"] {
        gateway.get(target).send().assert_status(404);
    }
}

#[test]
fn the_access_log_tells_in_json_what_happened() {
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .top("accessLog: {format: json, filePath: \"{dir}/access.log\"}")
        .run();
    gateway
        .post("/a?secret=1", "body")
        .header("User-Agent", "probe")
        .send()
        .assert_status(200);
    gateway.get("/?status=404&n=7").send().assert_status(404);
    let lines = || {
        let text = std::fs::read_to_string(gateway.dir().join("access.log")).unwrap_or_default();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines
            .into_iter()
            .filter(|line| line["entryPointName"] == "web")
            .collect::<Vec<_>>()
    };
    assert_eventually!(lines().len() == 2);
    let lines = lines();
    // Lines of different workers come in no order.
    let of = |method: &str| lines.iter().find(|line| line["RequestMethod"] == method).unwrap();
    let (first, second) = (of("POST"), of("GET"));
    assert_eq!(first["DownstreamStatus"], 200);
    assert_eq!(first["OriginStatus"], 200);
    assert_eq!(first["RouterName"], "r@file");
    assert_eq!(first["ServiceName"], "s@file");
    assert_eq!(first["ServiceURL"], backend.url());
    assert_eq!(first["ClientHost"], "127.0.0.1");
    assert_eq!(first["RequestContentSize"], 4);
    assert_eq!(first["RequestProtocol"], "HTTP/1.1");
    assert!(first["Duration"].as_u64().is_some_and(|nanoseconds| nanoseconds > 0));
    assert_eq!(second["DownstreamStatus"], 404);
    assert_eq!(second["DownstreamContentSize"], 7);
}

#[test]
fn the_access_log_tells_in_common_format_and_is_opened_again() {
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .top("accessLog: {filePath: \"{dir}/access.log\"}")
        .run();
    gateway.get("/one").send().assert_status(200);
    let path = gateway.dir().join("access.log");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    assert_eventually!(
        read(&path).contains("\"GET /one HTTP/1.1\" 200 5 \"-\" \"-\""),
        "{}",
        read(&path)
    );
    let line = read(&path)
        .lines()
        .find(|line| line.contains("/one"))
        .unwrap()
        .to_owned();
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(
        line.contains(&format!("\"r@file\" \"{}\"", backend.url())) && line.ends_with("ms"),
        "{line}"
    );
    let moved = gateway.dir().join("access.log.1");
    std::fs::rename(&path, &moved).unwrap();
    gateway.signal("USR1");
    assert_eventually!(path.exists());
    gateway.get("/two").send().assert_status(200);
    assert_eventually!(read(&path).contains("/two"));
    assert!(!read(&moved).contains("/two"));
}

#[test]
fn a_log_entry_cannot_be_forged() {
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .top("accessLog: {filePath: \"{dir}/access.log\"}")
        .run();
    gateway
        .get("/%0a127.0.0.1%20-%20admin")
        .header("User-Agent", "a\" \"b")
        .send();
    gateway.get("/end").send();
    let path = gateway.dir().join("access.log");
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    let web = || read().lines().filter(|line| !line.contains("/__ready")).count();
    assert_eventually!(read().contains("/end") && web() >= 2, "{}", read());
    assert_eq!(web(), 2, "{}", read());
}
