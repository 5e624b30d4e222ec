//! What Gantry does with the metrics of the servers behind it: `/sd`, `/federate` and scraped accuracy.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client::Request;
use crate::harness::h2::TlsBackend;
use crate::harness::*;

/// A backend that exposes `text`, and nothing else.
fn exposing(text: impl Into<Vec<u8>>) -> Backend {
    let text = text.into();
    Backend::answering(move |seen| match seen.path() {
        "/metrics" => Answer::new(200).body(text.clone()),
        _ => Answer::new(404),
    })
}

fn dice(value: &str) -> String {
    format!(
        "# HELP validation_dice Dice on the validation set.\n# TYPE validation_dice gauge\nvalidation_dice {value}\n"
    )
}

/// A dynamic file of services, each with a line of YAML beside its servers. A router brings the first to the web.
fn services(all: &[(&str, &str, &[&str])]) -> String {
    let mut yaml = String::from("http:\n  routers: {r: {rule: \"PathPrefix(`/`)\", service: ");
    yaml += &format!("{}}}}}\n  services:\n", all[0].0);
    for (name, line, urls) in all {
        let servers: Vec<_> = urls.iter().map(|url| format!("{{url: \"{url}\"}}")).collect();
        let servers = servers.join(", ");
        yaml += &format!("    {name}:\n      {line}\n      loadBalancer: {{servers: [{servers}]}}\n");
    }
    yaml
}

const MODEL: &str = "{model: {name: seg, version: \"1\"}, metrics: {}, ";

/// One service `s` of the model `seg`, version 1, whose metrics are listed.
fn model(urls: &[&str]) -> String {
    gateway::all_to(urls).replace("{s: {", &format!("{{s: {MODEL}"))
}

fn groups(gateway: &Gateway) -> Vec<Value> {
    let reply = gateway.admin("/sd");
    reply.assert_status(200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    serde_json::from_slice(&reply.body.bytes).unwrap()
}

/// The value of the sample whose name and labels contain all `parts`.
fn value(text: &str, parts: &[&str]) -> Option<f64> {
    let mut found = text
        .lines()
        .filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
    let line = found.next()?;
    assert!(found.next().is_none(), "{parts:?} is ambiguous:\n{text}");
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn every_server_with_metrics_is_listed() {
    only_gantry!();
    let yaml = "http:
  routers: {r: {rule: \"Path(`/x`)\", service: w}}
  services:
    w: {weighted: {services: [{name: a, weight: 1}, {name: b, weight: 0}]}}
    a:
      model: {name: seg, version: \"1\"}
      metrics: {path: \"/m?kind=a%2Fb\"}
      loadBalancer: {servers: [{url: \"http://10.0.0.1:9000\"}, {url: \"http://10.0.0.2\", weight: 0}]}
    b:
      metrics: {}
      loadBalancer: {servers: [{url: \"https://[::1]:9001/api\"}]}
    hidden:
      loadBalancer: {servers: [{url: \"http://10.0.0.3\"}]}
";
    let gateway = gateway().dynamic(yaml).run();
    let a = |target: &str, url: &str| {
        json!({"targets": [target], "labels": {
            "__meta_gantry_server_url": url, "__metrics_path__": "/m", "__param_kind": "a/b", "__scheme__": "http",
            "model": "seg", "service": "a@file", "version": "1",
        }})
    };
    let b = json!({"targets": ["[::1]:9001"], "labels": {
        "__meta_gantry_server_url": "https://[::1]:9001/api", "__metrics_path__": "/metrics", "__scheme__": "https",
        "service": "b@file",
    }});
    let both = [
        a("10.0.0.1:9000", "http://10.0.0.1:9000"),
        a("10.0.0.2:80", "http://10.0.0.2"),
        b,
    ];
    assert_eq!(groups(&gateway), both);
    gateway.reload(&yaml.replace("10.0.0.1:9000", "10.0.0.1:9009"));
    assert_eq!(groups(&gateway)[0]["targets"][0], "10.0.0.1:9009");
    for target in ["/sd", "/federate"] {
        gateway.get(target).send().assert_status(404);
    }
    assert_eq!(gateway.admin("/sd/").status, 404);
}

#[test]
fn the_lists_can_be_routed_by_hand() {
    only_gantry!();
    let backend = exposing(dice("0.9"));
    let yaml = model(&[&backend.url()]).replace(
        "{r: {",
        "{sd: {rule: \"Path(`/targets`)\", service: sd@internal}, f: {rule: \"Path(`/all-metrics`)\", service: federate@internal}, r: {",
    );
    let gateway = gateway()
        .dynamic(&yaml)
        .metrics("metrics: {prometheus: {manualRouting: true}}")
        .run();
    assert_eq!(gateway.admin("/sd").status, 404);
    assert!(gateway.get("/targets").send().text().contains("__metrics_path__"));
    let text = gateway.get("/all-metrics").send().text();
    assert_eq!(value(&text, &["validation_dice{"]), Some(0.9), "{text}");
}

#[test]
fn the_servers_metrics_are_merged() {
    only_gantry!();
    let counter = "# HELP runs_total Runs.\n# TYPE runs_total counter\nruns_total{service=\"own\",kind=\"a\\\"b\"} 7 1700000000000\nruns_total{kind=\"c\"} 1\n";
    let (one, two) = (exposing(dice("0.9") + counter), exposing(dice("0.8")));
    let open = Backend::answering(|_| {
        let text = "# TYPE runs counter\n# HELP runs Runs.\nruns_total 3 # {id=\"x\"} 1\n# EOF\n";
        Answer::new(200)
            .header("Content-Type", "application/openmetrics-text; version=1.0.0")
            .body(text)
    });
    let yaml = services(&[
        (
            "a",
            "model: {name: seg, version: \"1\"}\n      metrics: {}",
            &[&one.url(), &two.url()],
        ),
        ("b", "metrics: {}", &[&open.url()]),
    ]);
    let gateway = gateway().dynamic(&yaml).run();
    let reply = gateway.admin("/federate");
    let kind = reply.assert_status(200).header("content-type");
    assert!(kind.is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    let text = reply.text();
    let at = |backend: &Backend| format!("server=\"{}\"", backend.url());
    let labels = |backend: &Backend| format!("model=\"seg\",{},service=\"a@file\",version=\"1\"}}", at(backend));
    for line in [
        format!("validation_dice{{{} 0.9\n", labels(&one)),
        format!("validation_dice{{{} 0.8\n", labels(&two)),
        format!(
            "runs_total{{exported_service=\"own\",kind=\"a\\\"b\",{} 7\n",
            labels(&one)
        ),
        format!("runs_total{{{},service=\"b@file\"}} 3\n", at(&open)),
        format!("gantry_federate_up{{{} 1\n", labels(&two)),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert_eq!(text.matches("# TYPE validation_dice gauge\n").count(), 1, "{text}");
    assert_eq!(text.matches("# TYPE runs_total counter\n").count(), 1, "{text}");
    promtool_reads(&text);
    let chosen = |query: &str| gateway.admin(&format!("/federate?{query}")).text();
    let text = chosen(
        "match[]=runs_total%7Bkind%3D~%22a.*%22%7D&match[]=%7B__name__=%22validation_dice%22,server!=%22x%22%7D",
    );
    assert_eq!(text.matches("\nruns_total{").count(), 1, "{text}");
    assert_eq!(text.matches("\nvalidation_dice{").count(), 2, "{text}");
    let text = chosen("service=b");
    assert!(text.contains("b@file") && !text.contains("a@file"), "{text}");
    let text = chosen("model=seg");
    assert!(text.contains("a@file") && !text.contains("b@file"), "{text}");
    let refused = gateway.admin("/federate?match[]=%7B");
    refused.assert_status(400);
    assert!(refused.text().contains("no selector"), "{}", refused.text());
    let asked = one.last();
    assert_eq!(asked.header("accept-encoding"), Some("gzip"));
    let told = asked
        .header("x-prometheus-scrape-timeout-seconds")
        .and_then(|told| told.parse::<f64>().ok());
    assert!(told.is_some_and(|told| told > 0.0 && told <= 5.0), "{told:?}");
}

/// `promtool check metrics` has nothing to say.
fn promtool_reads(text: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else { return };
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

#[test]
fn what_is_slow_huge_or_garbage_costs_nobody_else() {
    only_gantry!();
    let good = exposing(dice("0.9"));
    let garbage = exposing("<html>\x1b[31m\nLog in</html>");
    let many = exposing("runs_total 1\n".repeat(50_001));
    let large = exposing(format!("# {}\n", "x".repeat(1000)).repeat(9000));
    let clash = exposing("# TYPE validation_dice counter\nvalidation_dice 1\nother 2\n");
    let slow = Backend::answering(|_| {
        let mut answer = Answer::new(200);
        answer.delay = Duration::from_secs(60);
        answer
    });
    let down = format!("http://{}", Backend::down());
    let (good_url, garbage_url, clash_url) = (good.url(), garbage.url(), clash.url());
    let yaml = services(&[
        ("a", "metrics: {}", &[&good_url]),
        (
            "b",
            "metrics: {}",
            &[&garbage_url, &many.url(), &large.url(), &slow.url(), &down],
        ),
        ("c", "metrics: {}", &[&clash_url]),
    ]);
    let gateway = gateway().dynamic(&yaml).run();
    let began = Instant::now();
    let reply = gateway.admin_with("/federate", "X-Prometheus-Scrape-Timeout-Seconds", "2");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let text = reply.assert_status(200).text();
    let up = |url: &str| value(&text, &["gantry_federate_up{", &format!("server=\"{url}\"")]);
    assert_eq!(up(&good_url), Some(1.0), "{text}");
    assert_eq!(up(&clash_url), Some(1.0), "{text}");
    for url in [&garbage_url, &many.url(), &large.url(), &slow.url(), &down] {
        assert_eq!(up(url), Some(0.0), "{url}\n{text}");
    }
    assert_eq!(value(&text, &["validation_dice{"]), Some(0.9), "{text}");
    assert_eq!(value(&text, &["other{"]), Some(2.0), "{text}");
    for remark in [
        format!("# Gantry: b@file {garbage_url}: line 1: `<html>\\u{{1b}}[31m` is no name of a metric\n"),
        format!("# Gantry: b@file {}: line 50001: more than 50000 samples", many.url()),
        format!("# Gantry: b@file {}: more than 8388608 bytes\n", large.url()),
        format!("# Gantry: b@file {}: no answer", slow.url()),
        format!(
            "# Gantry: c@file {clash_url}: `validation_dice` is counter here and gauge at a server before: left out\n"
        ),
    ] {
        assert!(text.contains(&remark), "{remark}\n{text}");
    }
    let errors = |url: &str, reason: &str| {
        let reason = format!("reason=\"{reason}\"");
        gateway.metric(&["gantry_scrape_errors_total{", &format!("url=\"{url}\""), &reason])
    };
    assert_eq!(errors(&garbage_url, "malformed"), Some(1.0));
    assert_eq!(errors(&clash_url, "malformed"), Some(1.0));
    assert_eq!(errors(&large.url(), "too_large"), Some(1.0));
    assert_eq!(errors(&slow.url(), "timeout"), Some(1.0));
    assert_eq!(errors(&down, "unreachable"), Some(1.0));
    gateway.get("/metrics").send().assert_status(200);
}

#[test]
fn an_https_server_is_asked_by_its_transport() {
    only_gantry!();
    let backend = TlsBackend::start(&certificate::Certificate::of(&["backend.test"]));
    let yaml = model(&[&backend.url()]);
    let gateway = gateway().dynamic(&yaml).run();
    let text = gateway.admin("/federate").text();
    assert!(text.contains("certificate is not trusted"), "{text}");
    let trusting = "  serversTransports: {t: {insecureSkipVerify: true}}\n";
    gateway.reload(&(yaml.replace("loadBalancer: {", "loadBalancer: {serversTransport: t, ") + trusting));
    let text = gateway.admin("/federate").text();
    assert!(
        text.contains("`TLS` is no number"),
        "what it says is `over TLS`: {text}"
    );
}

const SCRAPED: &str = "accuracy: [{from: scrape, gauge: validation_dice, interval: 400ms, label: dice}], \
    confidence: [{from: scrape, gauge: \"sure{split=\\\"test\\\"}\", interval: 400ms, label: sure}], ";

#[test]
fn accuracy_is_scraped() {
    only_gantry!();
    let more = "sure{split=\"test\"} 0.25\nsure{split=\"train\"} 1\n";
    let (one, two) = (exposing(dice("0.9") + more), exposing(dice("0.7") + more));
    let yaml = model(&[&one.url(), &two.url()]).replace(MODEL, &format!("{MODEL}{SCRAPED}"));
    let gateway = gateway().dynamic(&yaml).run();
    let labels = [
        "model=\"seg\"",
        "version=\"1\"",
        "service=\"s@file\"",
        "source=\"scraped\"",
    ];
    let metric = |name: &str, more: &[&str]| gateway.metric(&[&[name], &labels[..], more].concat());
    let near = |value: Option<f64>, wanted: f64| value.is_some_and(|value| (value - wanted).abs() < 0.1);
    assert_eventually!(near(metric("model_accuracy{", &["label=\"dice\""]), 0.8));
    assert_eq!(metric("model_confidence{", &["label=\"sure\""]), Some(0.25));
    assert!(metric("model_accuracy_age_seconds{", &["label=\"dice\""]).is_some_and(|age| age < 15.0));
    let rejected = |reason: &str| {
        let reason = format!("reason=\"{reason}\"");
        gateway.metric(&[
            "model_accuracy_rejected_total{",
            "source=\"scraped\"",
            &reason,
            "version=\"1\"",
        ])
    };
    assert_eq!(rejected("malformed"), None);
    let log = |text: &str| gateway.log().matches(text).count();
    two.set(|_| Answer::new(200).body("<html>"));
    assert_eventually!(rejected("malformed").is_some_and(|count| count >= 4.0));
    assert_eq!(
        log("accuracy cannot be scraped: line 1: `<html>` is no name of a metric"),
        1,
        "told once"
    );
    two.set(|_| Answer::new(200).body("validation_dice 1.5\nsure{split=\"test\"} NaN\n"));
    assert_eventually!(rejected("out_of_range").is_some() && rejected("not_a_number").is_some());
    two.set(|_| Answer::new(503));
    assert_eventually!(rejected("unreachable").is_some());
    assert_eventually!(
        gateway
            .metric(&["gantry_scrape_errors_total{", "reason=\"status\""])
            .is_some()
    );
    two.set(|_| Answer::new(200).body("other 1\n"));
    assert_eventually!(rejected("missing").is_some());
    two.set(|_| Answer::new(200).body("validation_dice 0.9\nsure{split=\"test\"} 0.25\n"));
    assert_eventually!(log("accuracy is scraped again") == 1);
    assert_eq!(log("accuracy cannot be scraped"), 1, "{}", gateway.log());
    // Another version on the same servers has series of its own.
    gateway.reload(&yaml.replace("version: \"1\"", "version: \"2\""));
    let second = [
        "model_accuracy{",
        "version=\"2\"",
        "source=\"scraped\"",
        "label=\"dice\"",
    ];
    assert_eventually!(near(gateway.metric(&second), 0.9));
    gateway.reload(&yaml.replace(SCRAPED, ""));
    one.forget();
    let before = Instant::now();
    assert_eventually!(before.elapsed() > Duration::from_millis(600));
    assert_eq!(one.count(), 0, "a scrape went on");
}

/// A Prometheus of Debian's that finds its targets in `/sd`; `None` where it is not installed.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(gateway: &Gateway) -> Option<Self> {
        Command::new("prometheus").arg("--version").output().ok()?;
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let admin = gateway.admin_address();
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 400ms}}
scrape_configs:
  - job_name: models
    http_sd_configs: [{{url: \"http://{admin}/sd\", refresh_interval: 500ms}}]
  - job_name: federate
    honor_labels: true
    metrics_path: /federate
    static_configs: [{{targets: [\"{admin}\"]}}]
"
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self {
            child,
            address,
            _folder: folder,
        };
        assert_eventually!(TcpStream::connect(address).is_ok());
        Some(started)
    }

    fn api(&self, target: &str) -> Value {
        let reply = Request::new(self.address, "GET", &format!("/api/v1/{target}")).try_send();
        let text = reply.map(|reply| reply.body.bytes).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The scrape URLs of the targets of the job `models` that are up, with their versions.
    fn up(&self) -> Vec<(String, String)> {
        let targets = self.api("targets?state=active");
        let targets = targets["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        let up = targets
            .iter()
            .filter(|target| target["labels"]["job"] == "models" && target["health"] == "up");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut up: Vec<_> = up
            .map(|target| (text(&target["scrapeUrl"]), text(&target["labels"]["version"])))
            .collect();
        up.sort_by(|a, b| a.1.cmp(&b.1));
        up
    }

    /// The values of an instant query.
    fn query(&self, query: &str) -> Vec<String> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let found = self.api(&format!("query?query={query}"));
        let found = found["data"]["result"].as_array().cloned().unwrap_or_default();
        found
            .iter()
            .map(|series| series["value"][1].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn prometheus_finds_new_versions_by_itself() {
    only_gantry!();
    let (one, two) = (exposing(dice("0.9")), exposing(dice("0.8")));
    let first = model(&[&one.url()]);
    let gateway = gateway().dynamic(&first).run();
    let Some(prometheus) = Prometheus::start(&gateway) else {
        return;
    };
    let target = |backend: &Backend, version: &str| (format!("{}/metrics", backend.url()), version.to_owned());
    assert_eventually!(prometheus.up() == [target(&one, "1")], "{:?}", prometheus.up());
    assert_eventually!(prometheus.query("validation_dice{job=\"models\",model=\"seg\",service=\"s@file\"}") == ["0.9"]);
    let federated = format!("validation_dice{{job=\"federate\",server=\"{}\"}}", one.url());
    assert_eventually!(prometheus.query(&federated) == ["0.9"]);
    let servers = format!("loadBalancer: {{servers: [{{url: \"{}\"}}]}}", two.url());
    let beside = format!("{{t: {}{servers}}}, s: {{", MODEL.replace("\"1\"", "\"2\""));
    gateway.reload(&first.replace("{s: {", &beside));
    assert_eventually!(
        prometheus.up() == [target(&one, "1"), target(&two, "2")],
        "{:?}",
        prometheus.up()
    );
    assert_eventually!(prometheus.query("validation_dice{job=\"models\",version=\"2\"}") == ["0.8"]);
    gateway.reload(&model(&[&two.url()]).replace("version: \"1\"", "version: \"2\""));
    assert_eventually!(prometheus.up() == [target(&two, "2")], "{:?}", prometheus.up());
}
