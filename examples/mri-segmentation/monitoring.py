#!/usr/bin/python3
"""The example under real monitoring: Prometheus finds the models by itself, alerts fire and resolve, feedback is scored.

    monitoring.py [--gantry COMMAND] [--patience SECONDS] [--pictures FOLDER]
    monitoring.py --shipped         the alert rules exactly as they are shipped; takes about half an hour

Both versions of the model, Gantry, Prometheus and Alertmanager on free loopback ports, with the configuration that is shipped
(ports and intervals apart; without --shipped, `for:` of the alert rules is cut to a few seconds). Then:

  - Prometheus scrapes the gateway, and the models that it finds through /sd;
  - both versions are slow and not accurate enough: ModelSlow and ModelInaccurate reach Alertmanager's receiver;
  - the true mask of the volume is sent as feedback, and Gantry's Dice is compared with one computed by numpy;
  - version 3 is rolled out by an edit of the file: Prometheus finds it, and ModelInaccurate resolves. With --shipped also
    ModelSlow, once nobody has asked a model for a quarter of an hour.

--pictures keeps screenshots of Prometheus's graphs, drawn by Chromium.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlencode

import e2e
from e2e import HERE, MODEL, PATHS, call, check, free_ports, ready, start, until

import nibabel as nib  # noqa: E402 - e2e sees to it that these are there
import numpy as np  # noqa: E402

CONFIG = HERE.parents[1] / "config"
GRAPHS = {
    "inference-time": 'model_inference_time_seconds{model="mri-segmentation"}',
    "latency-quantiles": 'histogram_quantile(0.95, sum by (version, le) (rate(model_inference_duration_seconds_bucket[1m])))',
    "accuracy": 'model_accuracy{model="mri-segmentation"}',
    "throughput": "sum by (version) (rate(model_requests_total[1m]))",
    "voxels": "sum by (version) (rate(model_voxels_total[1m]))",
    "canary-share": "sum by (variant) (rate(gantry_variant_requests_total[1m]))",
    "stages": "sum by (version, stage) (rate(model_stage_duration_seconds_sum[1m]))",
    "in-flight": "model_in_flight",
    "alerts": "ALERTS",
    "server-up": "gantry_service_server_up",
    "masks-kept": "model_masks_kept_bytes",
    "models-own": "segment_requests_total",
}


def tool(*names):
    for name in names:
        if found := shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return found
    sys.exit(f"monitoring: {names[0]} is not installed; tests/run.sh installs it")


class Receiver:
    """What Alertmanager sends its notifications to."""

    def __init__(self, stack):
        self.seen = {}  # alert name: [status, …]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    outer.seen.setdefault(alert["labels"]["alertname"], []).append(alert["status"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        self.url = f"http://127.0.0.1:{server.server_address[1]}/"


class Prometheus:
    """Prometheus and Alertmanager with the shipped configuration."""

    def __init__(self, stack, gateway, shipped):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gantry-monitoring-")))
        self.receiver = Receiver(stack)
        port, alerts = free_ports(2)
        self.url = f"http://127.0.0.1:{port}"
        admin = gateway.admin.removeprefix("http://")
        for rules in (CONFIG / "prometheus").glob("*.yml"):
            text = rules.read_text()
            if not shipped:
                text = re.sub(r"\bfor: \d+[mh]", "for: 3s", text)
            text = text.replace("127.0.0.1:8080", admin).replace("127.0.0.1:9093", f"127.0.0.1:{alerts}")
            (folder / rules.name).write_text(re.sub(r"_interval: \d+[sm]", "_interval: 2s", text))
        (folder / "alertmanager.yml").write_text(
            "route: {receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 2s, repeat_interval: 1h}\n"
            f"receivers: [{{name: hook, webhook_configs: [{{url: '{self.receiver.url}', send_resolved: true}}]}}]\n"
        )
        log = folder / "alertmanager.log"
        command = [tool("prometheus-alertmanager", "alertmanager"), f"--config.file={folder / 'alertmanager.yml'}"]
        command += [f"--storage.path={folder / 'alerts'}", f"--web.listen-address=127.0.0.1:{alerts}"]
        process = start(stack, [*command, "--cluster.listen-address="], log, folder)
        ready("Alertmanager", process, f"http://127.0.0.1:{alerts}", "/-/ready", log)
        log = folder / "prometheus.log"
        command = [tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address=127.0.0.1:{port}"]
        command += [f"--storage.tsdb.path={folder / 'data'}"]
        process = start(stack, command, log, folder)
        ready("Prometheus", process, self.url, "/-/ready", log)

    def get(self, path, **parameters):
        status, _, body = call(self.url, "GET", f"/api/v1/{path}?{urlencode(parameters)}")
        check(status == 200, f"Prometheus answers {status}: {body[:300]!r}")
        return json.loads(body)["data"]

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def versions_found(self):
        """The versions whose servers are scraped, found through /sd."""
        targets = self.get("targets", state="active")["activeTargets"]
        return {t["labels"].get("version") for t in targets if t["health"] == "up" and t["labels"].get("model") == MODEL}

    def last(self, alert):
        return (self.receiver.seen.get(alert) or [None])[-1]


def feedback(run, gateway, token):
    """Sends the true mask of a volume that was just segmented; Gantry's Dice against numpy's."""
    status, headers, answer = gateway.segment(run.zipped)
    check(status == 200, f"/segment answers {status}")
    identity, version = headers["X-Request-Id"], headers["X-Model-Version"]
    check(identity is not None, "the answer carries X-Request-Id")
    mask = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(answer)).dataobj) != 0
    ours = 2 * np.count_nonzero(mask & run.truth) / (np.count_nonzero(mask) + np.count_nonzero(run.truth))
    truth = gzip.compress(nib.Nifti1Image(run.truth.astype(np.uint8), run.image.affine).to_bytes(), 1)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/gzip"}
    status, _, body = call(gateway.admin, "POST", f"/feedback/{identity}", truth, headers)
    check(status == 200, f"the feedback answers {status}: {body[:300]!r}")
    theirs = json.loads(body)["dice"]["mean"]
    check(abs(theirs - ours) < 1e-9, f"Gantry's Dice is {theirs}, numpy's {ours}")
    labels = {"model": MODEL, "version": version, "source": "feedback", "label": "dice"}
    until("the feedback's Dice is on /metrics", lambda: gateway.value("model_accuracy", **labels) is not None, 10)
    value = gateway.value("model_accuracy", **labels)
    check(abs(value - ours) < 1e-9, f"model_accuracy of the feedback is {value}, not {ours}")
    print(f"feedback: version {version}: Gantry's Dice {theirs:.6f}, numpy's {ours:.6f}")

    status, _, _ = call(gateway.admin, "POST", f"/feedback/{identity}", truth, {"Authorization": "Bearer wrong"})
    check(status == 401, f"a wrong token: {status}")
    status, _, _ = call(gateway.admin, "POST", "/feedback/00000000-0000-7000-8000-000000000000", truth, headers)
    check(status == 404, f"an unknown request: {status}")
    other = nib.Nifti1Image(run.truth[:-1].astype(np.uint8), run.image.affine)
    status, _, body = call(gateway.admin, "POST", f"/feedback/{identity}", gzip.compress(other.to_bytes(), 1), headers)
    check(status == 422, f"a mask of other geometry: {status} {body[:300]!r}")
    print("feedback with a wrong token: 401; for an unknown request: 404; of another geometry: 422")


def roll_out(stack, gateway):
    """Starts version 3 and gives it all requests, by one edit of the file."""
    (port,) = free_ports(1)
    log = gateway.dynamic.parent.parent / "model-v3.log"
    command = [PATHS["PYTHON"], HERE / "server.py", "--version", "3", "--port", str(port)]
    command += ["--models", PATHS["MODELS"], "--reference", PATHS["REFERENCE"]]
    ready("model version 3", start(stack, command, log, HERE), f"http://127.0.0.1:{port}", "/health", log)
    text = gateway.dynamic.read_text()
    second = re.search(r"    mri-v2:\n(?:      .*\n|\n)+", text)[0]
    third = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", second.replace("mri-v2", "mri-v3"))
    third = third.replace('version: "2"', 'version: "3"')
    text = re.sub(r"(name: mri-v[12], weight: )\d+", r"\g<1>0", text)
    text = re.sub(r"( +)(- \{ name: mri-v2, weight: 0 \}\n)", r"\1\2\1- { name: mri-v3, weight: 1 }\n", text)
    before = gateway.reloads()
    e2e.replace(gateway.dynamic, text.rstrip() + "\n\n" + third)
    until("version 3 is loaded", lambda: gateway.reloads() > before, 15)


def pictures(prometheus, folder):
    """Screenshots of Prometheus's own graph page with what the dashboards ask."""
    folder.mkdir(parents=True, exist_ok=True)
    chromium = tool("chromium")
    for name, expression in GRAPHS.items():
        url = f"{prometheus.url}/classic/graph?g0.range_input=10m&g0.tab=0&g0.expr={quote(expression)}"
        url = url.replace("/classic", "")
        target = folder.resolve() / f"{name}.png"
        with tempfile.TemporaryDirectory() as profile:
            command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
            command += ["--window-size=1400,900", "--virtual-time-budget=15000", f"--screenshot={target}", url]
            subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        check(target.stat().st_size > 10_000, f"{target} is a picture")
        print(f"picture: {target.name}: {expression}")


def test(stack, gateway, options):
    run = e2e.Run(gateway)
    gateway.weights(1, 1)
    prometheus = Prometheus(stack, gateway, options.shipped)
    until("both versions answer", lambda: {run.segment() for _ in range(2)} == {"1", "2"}, 60)
    until("Prometheus finds both versions", lambda: prometheus.versions_found() == {"1", "2"}, 60)
    print("Prometheus scrapes versions", sorted(prometheus.versions_found()), "found through /sd")

    patience = options.patience or (1200 if options.shipped else 120)
    for alert in ("ModelSlow", "ModelInaccurate"):
        began = time.monotonic()

        def fired():
            run.segment()
            return prometheus.last(alert) == "firing"

        until(f"{alert} fires", fired, patience)
        print(f"{alert} fires: Alertmanager's receiver has it ({time.monotonic() - began:.0f} s)")
    feedback(run, gateway, options.token)
    if options.pictures:
        pictures(prometheus, options.pictures)

    roll_out(stack, gateway)
    until("version 3 answers", lambda: run.gateway.segment(run.zipped)[1]["X-Model-Version"] == "3", 60)
    until("Prometheus finds version 3", lambda: "3" in prometheus.versions_found(), 60)
    print("version 3 is rolled out, and Prometheus scrapes it")
    until("ModelInaccurate resolves", lambda: prometheus.last("ModelInaccurate") == "resolved", patience)
    print("ModelInaccurate resolves")
    if options.pictures:
        pictures(prometheus, options.pictures / "after")
    if options.shipped:
        until("ModelSlow resolves", lambda: prometheus.last("ModelSlow") == "resolved", 1800)
        print("ModelSlow resolves")
    problems = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=call(gateway.admin, "GET", "/metrics")[2], capture_output=True
    )
    check(problems.returncode == 0, f"promtool check metrics: {problems.stdout + problems.stderr!r}")
    print("promtool check metrics has nothing to say")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gantry", default=os.environ.get("GANTRY", HERE.parents[1] / "target/release/gantry"))
    parser.add_argument("--threads", type=int, help="threads of an inference; default: all cores")
    parser.add_argument("--patience", type=int, help="seconds that an alert may take; default: 120, with --shipped 1200")
    parser.add_argument("--shipped", action="store_true", help="alert rules exactly as shipped")
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            gateway = e2e.start_everything(stack, str(options.gantry), options.threads)
            options.token = (gateway.dynamic.parent.parent / "run" / "feedback.token").read_text().strip()
            test(stack, gateway, options)
    except e2e.Failed as failure:
        sys.exit(f"monitoring: FAILED: {failure}")
    print(f"monitoring: all holds ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
