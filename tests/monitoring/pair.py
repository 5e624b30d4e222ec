#!/usr/bin/python3
"""Two Prometheus replicas and two clustered Alertmanagers, as shipped: a fault is told once.

    pair.py

Runs config/prometheus/ha/ and config/alertmanager/alertmanager.yml with other addresses and shorter times, and a stand-in for
the gateway, which goes away. Both replicas must send GantryAllDown to both Alertmanagers, which must agree on one page, with
GantryDown inhibited. When the gateway is back, a message must say so. The same without the cluster must give two pages, or
the test could not tell.
"""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "config"
PATIENCE = 60  # seconds that a condition may take


class Failed(Exception):
    pass


def until(what, condition, processes=()):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for process in processes:
            if process.poll() is not None:
                raise Failed(f"{process.args[0]} ended with {process.returncode}")
        try:
            if found := condition():
                return found
        except (OSError, ValueError, http.client.HTTPException):
            pass  # not there yet
        time.sleep(0.1)
    raise Failed(f"not within {PATIENCE} s: {what}")


def free_ports(count):
    """Ports that are free over TCP and UDP (the cluster uses both). All are held until all are chosen."""
    with ExitStack() as held:
        ports = []
        while len(ports) < count:
            tcp = held.enter_context(socket.socket())
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            udp = held.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
        return ports


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def metric(port, name, labels=""):
    """The sum of a program's own series of this name."""
    lines = get(port, "/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line) and labels in line)


def serve(port, handle):
    """A server that gives each request to `handle(path, body)` and answers with the text that it returns."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            text = handle(self.path, body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def close(server):
    server.shutdown()
    server.server_close()


class Receiver:
    """What Alertmanager's webhooks reach: for each receiver, what it was told."""

    def __init__(self, stack):
        self.told = []  # (receiver, status, alerts' names)
        server = serve(0, self.take)
        stack.callback(close, server)
        self.port = server.server_address[1]

    def take(self, path, body):
        if path != "/heartbeat":
            message = json.loads(body)
            self.told.append((path.strip("/"), message["status"], sorted(alert["labels"]["alertname"] for alert in message["alerts"])))
        return ""

    def pages(self, status):
        return [told for told in self.told if told[1] == status]


class Pair:
    """All four programs. `clustered`: whether the Alertmanagers know each other."""

    def __init__(self, stack, clustered):
        self.stack, self.processes = stack, []
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gantry-pair-")))
        self.receiver = Receiver(stack)
        *self.alertmanagers, cluster_a, cluster_b, prometheus_a, prometheus_b, self.gateway = free_ports(7)
        self.replicas = [prometheus_a, prometheus_b]
        self.write_files()
        for name, port, cluster, peer in zip("ab", self.alertmanagers, [cluster_a, cluster_b], [cluster_b, cluster_a]):
            self.start(
                shutil.which("prometheus-alertmanager") or "alertmanager",
                f"alertmanager-{name}",
                f"--config.file={self.folder / 'alertmanager/alertmanager.yml'}",
                f"--storage.path={self.folder / f'alerts-{name}'}",
                f"--web.listen-address=127.0.0.1:{port}",
                *([f"--cluster.listen-address=127.0.0.1:{cluster}", f"--cluster.peer=127.0.0.1:{peer}"] if clustered else ["--cluster.listen-address="]),
                *(["--cluster.peer-timeout=2s", "--cluster.settle-timeout=4s", "--cluster.reconnect-interval=1s"] if clustered else []),
            )
        for name, port in zip("ab", self.replicas):
            self.start(
                "prometheus",
                f"prometheus-{name}",
                f"--config.file={self.folder / f'prometheus/ha/prometheus-{name}.yml'}",
                f"--storage.tsdb.path={self.folder / f'data-{name}'}",
                f"--web.listen-address=127.0.0.1:{port}",
            )
        for port in self.alertmanagers:
            self.until("Alertmanager is ready", lambda port=port: get(port, "/-/ready"))
            if clustered:
                self.until("the cluster is whole", lambda port=port: metric(port, "alertmanager_cluster_members") == 2)
            self.until("the cluster is settled", lambda port=port: self.status(port) == ("ready" if clustered else "disabled"))

    def write_files(self):
        """The shipped files with our addresses and short times; nothing else is changed."""
        ports = {"9093": self.alertmanagers[0], "9095": self.alertmanagers[1], "9090": self.replicas[0], "9091": self.replicas[1]}
        ports |= {"8080": self.gateway, "5001": self.receiver.port}
        for file in [*CONFIG.glob("prometheus/*.yml"), *CONFIG.glob("prometheus/ha/*.yml"), *CONFIG.glob("alertmanager/*.yml")]:
            text = re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{ports.get(found[1], found[1])}", file.read_text())
            # `for` is longer than the time to the first scrape, when no gateway is up yet; group_interval is longer than an
            # Alertmanager waits for the other
            for key, value in [("for", "3s"), ("(scrape|evaluation)_interval", "1s"), ("group_wait", "2s"), ("group_interval", "5s")]:
                text = re.sub(rf"\b({key}): \d+[smh]", rf"\g<1>: {value}", text)
            target = self.folder / file.relative_to(CONFIG)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def start(self, program, name, *arguments):
        log = self.stack.enter_context(open(self.folder / f"{name}.log", "wb"))
        process = subprocess.Popen([program, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        self.stack.callback(stop, process)

    def until(self, what, condition):
        return until(what, condition, self.processes)

    def status(self, port):
        return json.loads(get(port, "/api/v2/status"))["cluster"]["status"]

    def alert(self, port):
        """GantryAllDown as an Alertmanager has it: one alert, without the replica."""
        alerts = json.loads(get(port, "/api/v2/alerts?filter=alertname=GantryAllDown"))
        if alerts and (len(alerts) != 1 or "replica" in alerts[0]["labels"] or alerts[0]["labels"]["cluster"] != "mri"):
            raise Failed(f"Alertmanager has {[alert['labels'] for alert in alerts]}")
        return alerts

    def serve_gateway(self):
        return serve(self.gateway, lambda path, _: "[]" if path == "/sd" else "")

    def fire(self):
        """Lets the gateway go away, and waits until everybody who may speak of it knows, and has decided."""
        server = self.serve_gateway()
        try:
            # Prometheus drops what it has to say before it knows to whom.
            for replica in self.replicas:
                known = lambda replica=replica: metric(replica, "prometheus_notifications_alertmanagers_discovered") == 2
                self.until("each replica knows both Alertmanagers", known)
                up = lambda replica=replica: '"1"' in get(replica, "/api/v1/query?query=up%7Bjob%3D%22gantry%22%7D")
                self.until("each replica scrapes the gateway", up)
        finally:
            close(server)
        for port in self.alertmanagers:
            for replica in self.replicas:
                labels = f"127.0.0.1:{port}/"
                sent = lambda replica=replica, labels=labels: metric(replica, "prometheus_notifications_sent_total", labels) > 0
                self.until("each replica sends to each Alertmanager", sent)
            self.until("each Alertmanager has the alert", lambda port=port: self.alert(port))
        self.until("a page", lambda: self.receiver.pages("firing"))
        # An Alertmanager asks its log of messages after it has waited for the other one: then it speaks, or knows that it
        # need not. Its groups, this one and the watchdog's, ask once in group_interval each: of three times that it
        # asks, one was for this.
        before = [metric(port, "alertmanager_nflog_queries_total") for port in self.alertmanagers]
        for port, count in zip(self.alertmanagers, before):
            decided = lambda port=port, count=count: metric(port, "alertmanager_nflog_queries_total") >= count + 3
            self.until("each Alertmanager decides again", decided)

    def print_logs(self):
        for log in sorted(self.folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)


def stop(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(clustered):
    with ExitStack() as stack:
        pair = Pair(stack, clustered)
        try:
            pair.fire()
            pages = pair.receiver.pages("firing")
            wanted = [("platform-page", "firing", ["GantryAllDown"])] * (1 if clustered else 2)
            if pages != wanted:
                raise Failed(f"{'with' if clustered else 'without'} a cluster: {pages}, not {wanted}")
            if clustered:
                stack.callback(close, pair.serve_gateway())
                pair.until("the message that it is over", lambda: pair.receiver.pages("resolved"))
            return len(pages)
        except Failed:
            pair.print_logs()
            raise


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the programs are stopped on the way out
    began = time.monotonic()
    try:
        one, two = run(clustered=True), run(clustered=False)
    except Failed as failure:
        sys.exit(f"pair: FAILED: {failure}")
    print(f"two Prometheus, two Alertmanagers: {one} page; {two} when these do not know each other ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
