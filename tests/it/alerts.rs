//! The alert rules of `config/prometheus` in a real Prometheus that scrapes a gateway, and a real Alertmanager that
//! tells a webhook: two of the rules fire when a model turns slow and wrong, and resolve when it recovers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;

use crate::harness::*;

/// What users are promised an alert for.
const RULES: [&str; 2] = ["avg(model_inference_time_seconds) > 0.5", "avg(model_accuracy) < 0.95"];

/// Copies every shipped file of rules into a folder, changed in nothing but the times that a test cannot wait for.
fn ship_rules(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus");
    let rules = Regex::new("(?m)^groups:").unwrap();
    let times = Regex::new(r"(?m)^(\s*(?:for|interval|keep_firing_for):) *\S+").unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if rules.is_match(&text) {
            let name = path.file_name().unwrap();
            fs::write(to.join(name), times.replace_all(&text, "$1 1s").as_ref()).unwrap();
        }
    }
}

/// Alertmanager tells the backend `receiver` of every change at once. The receiver is asked for by each alert's name.
fn alertmanager_yaml(receiver: &Backend) -> String {
    format!(
        "route: {{receiver: test, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers: [{{name: test, webhook_configs: [{{url: \"{}/alerts\", send_resolved: true}}]}}]
",
        receiver.url()
    )
}

fn prometheus_yaml(gateway: &Gateway, alertmanager: &Alertmanager, rules: &Path) -> String {
    format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [\"{}/*.yml\"]
alerting: {{alertmanagers: [{{static_configs: [{{targets: [\"{}\"]}}]}}]}}
scrape_configs: [{{job_name: gantry, static_configs: [{{targets: [\"{}\"]}}]}}]
",
        rules.display(),
        alertmanager.address(),
        gateway.admin_address()
    )
}

/// The name that the shipped files give to the alert with this condition.
fn alert_on(prometheus: &Prometheus, condition: &str) -> String {
    let said = prometheus.api("rules", "");
    let groups = said["groups"].as_array().unwrap().iter();
    let mut rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let found = rules.find(|rule| rule["type"] == "alerting" && rule["query"] == condition);
    let name = found.and_then(|rule| rule["name"].as_str());
    name.unwrap_or_else(|| panic!("no alert on {condition}: {said}"))
        .to_owned()
}

/// The alerts that reached the receiver under this name, in the order in which they came.
fn told(receiver: &Backend, name: &str) -> Vec<Value> {
    let mut alerts = Vec::new();
    for seen in receiver.seen() {
        // A body that is still on its way is read the next time.
        let message: Value = serde_json::from_slice(&seen.body.bytes).unwrap_or_default();
        alerts.extend(message["alerts"].as_array().cloned().unwrap_or_default());
    }
    alerts.retain(|alert| alert["labels"]["alertname"] == name);
    alerts
}

fn last_status(receiver: &Backend, name: &str) -> Option<String> {
    Some(told(receiver, name).last()?["status"].as_str()?.to_owned())
}

/// A model that answers after `delay`, and says how good it is.
fn model(delay: Duration, dice: &'static str) -> impl Fn(&Seen) -> Answer {
    move |_| {
        let mut answer = Answer::new(200).header("X-Model-Dice", dice).body("mask");
        answer.delay = delay;
        answer
    }
}

#[test]
fn a_slow_and_wrong_model_fires_the_shipped_alerts_and_a_good_one_resolves_them() {
    only_gantry!();
    let receiver = Backend::answering(|_| Answer::new(200));
    let Some(alertmanager) = Alertmanager::start(&alertmanager_yaml(&receiver)) else {
        return;
    };
    let backend = Backend::answering(model(Duration::from_millis(700), "0.9"));
    let yaml = gateway::all_to(&[&backend.url()]).replace(
        "{s: {",
        "{s: {model: {name: seg, version: \"1\"}, accuracy: [{from: header, name: X-Model-Dice, label: dice}], ",
    );
    let gateway = gateway().dynamic(&yaml).run();
    let rules = tempfile::tempdir().unwrap();
    ship_rules(rules.path());
    let config = prometheus_yaml(&gateway, &alertmanager, rules.path());
    // Told again soon, an alert survives that Prometheus finds Alertmanager only after it fired.
    let Some(prometheus) = Prometheus::start(&config, &["--rules.alert.resend-delay=2s"]) else {
        return;
    };
    let names = RULES.map(|condition| alert_on(&prometheus, condition));
    let firing = |name: &String| {
        let query = format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}}");
        !prometheus.query(&query).is_empty()
    };
    let managers = || prometheus.api("alertmanagers", "")["activeAlertmanagers"].clone();

    // The means begin with two slow answers of little accuracy.
    for _ in 0..2 {
        gateway.post("/", "volume").send().assert_status(200);
    }
    assert_eventually!(prometheus.value("avg(model_accuracy)") == Some(0.9));
    assert_eventually!(managers().as_array().is_some_and(|found| found.len() == 1));
    assert_eventually!(names.iter().all(firing));
    for name in &names {
        assert_eventually!(
            last_status(&receiver, name).as_deref() == Some("firing"),
            "{name}\n{}",
            alertmanager.log()
        );
        let alert = &told(&receiver, name)[0];
        assert!(alert["labels"]["severity"].is_string(), "{alert}");
        let summary = alert["annotations"]["summary"].as_str().unwrap();
        assert!(!summary.contains("<error"), "{summary}");
    }

    // Ten answers at once and nearly right carry both means over their limits.
    backend.set(model(Duration::ZERO, "0.99"));
    for _ in 0..10 {
        gateway.post("/", "volume").send().assert_status(200);
    }
    assert_eventually!(!names.iter().any(firing));
    for name in &names {
        assert_eventually!(
            last_status(&receiver, name).as_deref() == Some("resolved"),
            "{name}\n{}",
            alertmanager.log()
        );
    }
    assert!(prometheus.value("avg(model_accuracy)") > Some(0.95));
    assert!(prometheus.value("avg(model_inference_time_seconds)") < Some(0.5));
}
