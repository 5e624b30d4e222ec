//! `/metrics`, `/ping` and the access log (reference, B4).

use std::process::{Command, Stdio};

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

#[test]
fn promtool_has_nothing_to_say() {
    if Command::new("promtool")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        return;
    }
    let backend = Backend::answering(|_| Answer::new(200).header("X-Model-Dice", "0.93"));
    let mut yaml = gateway::all_to(&[&backend.url()]);
    if gateway::is_gantry() {
        yaml = yaml.replace("{s: {loadBalancer", &format!("{{s: {{{MODEL}, loadBalancer"));
    }
    let gateway = gateway().dynamic(&yaml).run();
    gateway.get("/").send().assert_status(200);
    gateway.get("/").send().assert_status(200);
    let reply = gateway.admin("/metrics");
    assert!(
        reply
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")),
        "{reply:?}"
    );
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), &reply.body.bytes).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Traefik itself is not clean.
    assert!(
        !gateway::is_gantry() || (output.status.success() && said.trim().is_empty()),
        "{said}"
    );
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
