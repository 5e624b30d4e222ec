#!/usr/bin/python3
"""The files for Prometheus, Alertmanager and Grafana, held against each other and against what Gantry says.

    files.py

  - every alert has a severity, a team, texts and a runbook entry, and a test that sees it fire;
  - every series that a rule or a panel asks for is one of Gantry's, of DCGM's, or one that a rule records;
  - every panel's query parses, and dashboards are complete for Grafana 10;
  - the pair's files differ in one word, and scrape what prometheus.yml scrapes;
  - the relabelling of kubernetes.yml makes of pods the targets that it should;
  - Alertmanager's routes lead every alert to the right receiver.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
PROMETHEUS = CONFIG / "prometheus"
RULES = ["recording.yml", "alerts.yml", "gpu.yml"]

problems = []


def expect(holds, problem):
    if not holds:
        problems.append(problem)


def run(*command):
    """Runs a tool; its output, or a problem."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    expect(done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def rules():
    for file in RULES:
        for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"]:
            yield from group["rules"]


# ---- series ------------------------------------------------------------------------------------------------------------

# What is not Gantry's: Prometheus's own, and NVIDIA's DCGM exporter's.
FOREIGN = """up ALERTS DCGM_FI_DEV_GPU_UTIL DCGM_FI_DEV_FB_USED DCGM_FI_DEV_FB_FREE DCGM_FI_DEV_XID_ERRORS
DCGM_FI_DEV_ECC_DBE_VOL_TOTAL DCGM_FI_DEV_GPU_TEMP""".split()
WORDS = "and or unless by without on ignoring group_left group_right bool offset inf nan".split()
ENDINGS = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}
PREFIXES = ["", "gantry_", *(f"gantry_{scope}_" for scope in ["entrypoint", "router", "service", "variant"]), "process_"]


def gantry_series():
    """Names in docs/metrics.md, and the families of src/observe/ under every prefix that they may have."""
    found = set(re.findall(r"`((?:gantry|model|process)_[a-z_]+)", (ROOT / "docs/metrics.md").read_text()))
    family = re.compile(r'Family::new\(\s*"([a-z_]+)",\s*Kind::(\w+)')
    for source in (ROOT / "src/observe").rglob("*.rs"):
        for name, kind in family.findall(source.read_text()):
            # the `model_*` series have no prefix
            prefixes = [""] if name.startswith("model_") else PREFIXES
            found |= {prefix + name + ending for prefix in prefixes for ending in ENDINGS[kind]}
    return found


def names(expression):
    """The series that an expression asks for."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\boffset\s+\w+", " ", bare)
    tokens = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)\s*(\(?)", bare)
    return {token for token, call in tokens if not call and token.lower() not in WORDS}


def check_names(where, expression, known):
    for name in sorted(names(expression) - known):
        problems.append(f"{where}: nothing is called {name}")


# ---- rules -------------------------------------------------------------------------------------------------------------


def check_alerts():
    runbook = (ROOT / "docs/monitoring.md").read_text()
    tested = "".join((PROMETHEUS / f"{Path(file).stem}_test.yml").read_text() for file in RULES)
    seen = set()
    for rule in rules():
        if "record" in rule:
            # one test asks for all that end in p95_5m
            expect(rule["record"] in tested or rule["record"].endswith(":p95_5m"), f"{rule['record']} has no test")
            continue
        name, labels, texts = rule["alert"], rule.get("labels", {}), rule.get("annotations", {})
        expect(name not in seen, f"two alerts are called {name}")
        seen.add(name)
        expect(labels.get("severity") in ("critical", "warning") or name == "Watchdog", f"{name}: severity {labels.get('severity')}")
        expect(labels.get("team") in ("models", "platform", "security"), f"{name}: team {labels.get('team')}")
        expect(texts.get("summary") and texts.get("description"), f"{name}: summary or description is missing")
        expect(texts.get("runbook") == f"docs/monitoring.md#{name.lower()}", f"{name}: runbook {texts.get('runbook')}")
        expect(f"\n### {name}\n" in runbook, f"{name}: docs/monitoring.md has no entry for it")
        expect(re.search(rf'{name}\n +exp_alerts:\n|alertname="{name}"', tested), f"{name}: no test sees it fire")
    for entry in re.findall(r"^### (\w+)$", runbook, re.M):
        expect(entry in seen, f"docs/monitoring.md: no alert is called {entry}")
    by_name = {rule.get("alert"): rule for rule in rules()}
    for name, expression, time in [
        ("ModelSlow", "avg(model_inference_time_seconds) > 0.5", "5m"),
        ("ModelInaccurate", "avg(model_accuracy) < 0.95", "10m"),
    ]:
        expect(by_name[name]["expr"] == expression and by_name[name]["for"] == time, f"{name} is not the rule that users have")
    return seen


def check_pair():
    texts = {replica: (PROMETHEUS / f"ha/prometheus-{replica}.yml").read_text() for replica in "ab"}
    a, b = (yaml.safe_load(texts[replica]) for replica in "ab")
    expect([a["global"]["external_labels"].pop("replica"), b["global"]["external_labels"].pop("replica")] == ["a", "b"], "ha/: replica")
    expect(a == b, "ha/: the two files differ in more than the replica")
    single = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    jobs = [[job["job_name"] for job in file["scrape_configs"]] for file in (a, single)]
    expect(jobs[0] == jobs[1], f"ha/ scrapes {jobs[0]}, prometheus.yml {jobs[1]}")
    expect([Path(file).name for file in a["rule_files"]] == single["rule_files"] == RULES, "rule_files differ")


# ---- Kubernetes --------------------------------------------------------------------------------------------------------


def pod(address, port="", **meta):
    labels = {f"__meta_kubernetes_{name}": value for name, value in meta.items()}
    labels |= {"__meta_kubernetes_pod_ip": address, "__meta_kubernetes_namespace": "models", "__meta_kubernetes_pod_name": "p"}
    return {"targets": [f"{address}:{port}" if port else address], "labels": labels}


ASKS = {"pod_annotation_prometheus_io_scrape": "true", "pod_phase": "Running"}
# job, pod, labels of the target that it becomes, or None
PODS = [
    ("models", pod("10.0.0.1", "80", **ASKS, pod_annotation_prometheus_io_port="9000", pod_label_app="mri", pod_label_version="2"),
     {"__address__": "10.0.0.1:9000", "__metrics_path__": "/metrics", "__scheme__": "http", "model": "mri", "version": "2", "pod": "p"}),
    ("models", pod("10.0.0.2", "9001", **ASKS, pod_annotation_prometheus_io_path="/m", pod_annotation_prometheus_io_scheme="https",
                   pod_label_app="mri-v2", pod_label_model="mri"),
     {"__address__": "10.0.0.2:9001", "__metrics_path__": "/m", "__scheme__": "https", "model": "mri", "namespace": "models"}),
    ("models", pod("10.0.0.3", "9000", pod_phase="Running"), None),
    ("models", pod("10.0.0.4", "9000", **{**ASKS, "pod_phase": "Succeeded"}), None),
    ("gantry", pod("10.0.0.5", "8080", pod_label_app_kubernetes_io_name="gantry", pod_container_port_name="admin"),
     {"__address__": "10.0.0.5:8080", "job": "gantry", "pod": "p"}),
    ("gantry", pod("10.0.0.5", "8000", pod_label_app_kubernetes_io_name="gantry", pod_container_port_name="web"), None),
    ("dcgm", pod("10.0.0.6", "9400", pod_label_app="nvidia-dcgm-exporter", pod_container_port_name="metrics", pod_node_name="n"),
     {"__address__": "10.0.0.6:9400", "job": "dcgm", "node": "n"}),
]


def check_kubernetes():
    """Debian's Prometheus is built without Kubernetes' discovery. So its sections are judged here, and pods that it could
    have found stand in their place for promtool."""
    config = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())
    expect(config["rule_files"] == RULES, "kubernetes.yml: rule_files")
    holders = [*config["scrape_configs"], *config["alerting"]["alertmanagers"]]
    for holder in holders:
        for discovery in holder.pop("kubernetes_sd_configs"):
            expect(discovery["role"] in ("pod", "node"), f"kubernetes.yml: role {discovery['role']}")
            known = {"role", "namespaces"} if discovery["role"] == "pod" else {"role"}
            expect(set(discovery) == known, f"kubernetes.yml: {sorted(discovery)}")
            found = discovery.get("namespaces", {"names": []})
            expect(list(found) == ["names"] and isinstance(found["names"], list), f"kubernetes.yml: namespaces {found}")
    for job in config["scrape_configs"]:
        tokens = "authorization" in job
        expect(tokens == (job["job_name"] == "containers"), f"kubernetes.yml: {job['job_name']}: only the kubelet gets a token")
        job["static_configs"] = [target for name, target, _ in PODS if name == job["job_name"]]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        run("promtool", "check", "config", "--syntax-only", file.name)
        for name in sorted({name for name, _, _ in PODS}):
            answer = run("promtool", "check", "service-discovery", "--timeout=1s", file.name, name)
            targets = {}
            for target in json.loads(answer or "[]"):
                address = target["discoveredLabels"].get("__meta_kubernetes_pod_ip"), target["discoveredLabels"].get("__meta_kubernetes_pod_container_port_name")
                targets[address] = target.get("labels") or None
            for _, given, wanted in (entry for entry in PODS if entry[0] == name):
                labels = given["labels"]
                key = labels["__meta_kubernetes_pod_ip"], labels.get("__meta_kubernetes_pod_container_port_name")
                got = targets.get(key)
                holds = got is None if wanted is None else got is not None and wanted.items() <= got.items()
                expect(holds, f"kubernetes.yml: {name}: {key} became {got}, not {wanted}")


# ---- Alertmanager ------------------------------------------------------------------------------------------------------


def check_routes(alerts):
    file = CONFIG / "alertmanager/alertmanager.yml"
    run("amtool", "check-config", file)
    expected = {("critical", "models"): "models-page", ("critical", "platform"): "platform-page", ("critical", "security"): "security-page",
                ("warning", "models"): "models-mail", ("warning", "platform"): "platform-tickets", ("warning", "security"): "security-mail",
                ("none", "platform"): "heartbeat"}
    unused = set(expected)
    cases = {}
    for rule in rules():
        if "alert" in rule:
            key = rule["labels"]["severity"], rule["labels"]["team"]
            unused.discard(key)
            cases[rule["alert"], *key] = expected.get(key, "none")
    cases["AnythingElse", "critical", "nobody"] = "platform-page"
    cases["AnythingElse", "warning", "nobody"] = "platform-tickets"
    expect(not unused, f"alertmanager.yml: no alert goes the way of {unused}")
    for (name, severity, team), receiver in cases.items():
        run("amtool", "config", "routes", "test", f"--config.file={file}", f"--verify.receivers={receiver}",
            f"alertname={name}", f"severity={severity}", f"team={team}")
    for rule in yaml.safe_load(file.read_text())["inhibit_rules"]:
        for name in re.findall(r'alertname=~?"(\w+(?:\|\w+)*)"', " ".join(rule["source_matchers"] + rule["target_matchers"])):
            expect(set(name.split("|")) <= alerts, f"alertmanager.yml: no alert is called {name}")
    return len(cases)


# ---- Grafana -----------------------------------------------------------------------------------------------------------


def substituted(expression):
    """The expression with values for Grafana's variables."""
    for variable, value in {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}.items():
        expression = expression.replace(variable, value)
    return re.sub(r"\$\{?\w+\}?", "x", expression)


def check_panel(where, panel, variables, known, queries):
    for key in ["title", "type", "gridPos", "id"]:
        expect(key in panel, f"{where}: no {key}")
    if panel["type"] == "row":
        return
    expect(panel.get("description"), f"{where}: no description")
    expect(panel["datasource"]["uid"] == "${datasource}", f"{where}: its data source is not the variable")
    defaults = panel["fieldConfig"]["defaults"]
    expect(defaults.get("unit"), f"{where}: no unit")
    expect(defaults["thresholds"]["steps"][0]["value"] is None, f"{where}: the first threshold has no value")
    if panel["type"] in ("timeseries", "state-timeline"):
        expect(panel["options"]["legend"]["showLegend"], f"{where}: no legend")
    expect(panel["targets"], f"{where}: no query")
    references = [target["refId"] for target in panel["targets"]]
    expect(len(set(references)) == len(references), f"{where}: two queries are called alike")
    for target in panel["targets"]:
        expect(target["legendFormat"] or panel["type"] in ("stat", "table"), f"{where}: a query without a name in the legend")
        used = set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval", "__interval", "__range"}
        expect(used <= variables, f"{where}: variables {used - variables} do not exist")
        expression = substituted(target["expr"])
        check_names(where, expression, known)
        queries.append((where, expression))


def check_dashboards(known):
    uids, queries = set(), []
    files = sorted((CONFIG / "grafana/dashboards").glob("*.json"))
    expect(len(files) >= 4, f"{len(files)} dashboards")
    for file in files:
        board = json.loads(file.read_text())
        expect(board["schemaVersion"] >= 38 and board["title"] and "id" not in board, f"{file.name}: schemaVersion, title or id")
        expect(board["uid"] not in uids and len(board["uid"]) <= 40, f"{file.name}: its uid is not its own")
        uids.add(board["uid"])
        variables = {variable["name"] for variable in board["templating"]["list"]}
        expect(board["templating"]["list"][0]["type"] == "datasource", f"{file.name}: the data source is not a variable")
        for variable in board["templating"]["list"][1:]:
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            expect(found, f"{file.name}: variable {variable['name']}")
            queries.append((f"{file.name}: ${variable['name']}", substituted(found[1])))
            check_names(f"{file.name}: ${variable['name']}", substituted(found[1]), known)
        for annotation in board["annotations"]["list"]:
            check_names(f"{file.name}: annotation", annotation["expr"], known)
            queries.append((f"{file.name}: annotation", annotation["expr"]))
        ids = [panel["id"] for panel in board["panels"]]
        expect(len(set(ids)) == len(ids), f"{file.name}: two panels have one id")
        cells = [(x, y) for panel in board["panels"] for at in [panel["gridPos"]]
                 for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
        expect(len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24, f"{file.name}: panels overlap")
        for panel in board["panels"]:
            check_panel(f"{file.name}: {panel['title']}", panel, variables, known, queries)
    # one rule for each query: a rule file is how promtool parses an expression
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        listed = [{"record": f"query:{number}", "expr": expression} for number, (_, expression) in enumerate(queries)]
        yaml.safe_dump({"groups": [{"name": "queries", "rules": listed}]}, file)
        file.flush()
        run("promtool", "check", "rules", file.name)
    for file in (CONFIG / "grafana/provisioning").rglob("*.yml"):
        expect(yaml.safe_load(file.read_text())["apiVersion"] == 1, f"{file.name}: apiVersion")
    return len(files), len(queries)


def main():
    known = gantry_series() | set(FOREIGN) | {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        check_names(rule.get("alert") or rule["record"], rule["expr"], known)
    alerts = check_alerts()
    check_pair()
    check_kubernetes()
    routes = check_routes(alerts)
    boards, queries = check_dashboards(known)
    if problems:
        sys.exit("\n".join(f"monitoring files: {problem}" for problem in problems))
    print(f"{len(alerts)} alerts, {routes} routes, {len(PODS)} pods, {boards} dashboards with {queries} queries")


if __name__ == "__main__":
    main()
