#!/usr/bin/env python3
"""Reloads under load: the same load with and without ten reloads a second, side by side.

    python3 benches/reload.py [--binary target/release/gantry] [--seconds 30] [--per-second 10]

Needs nginx (two backends) and wrk. Prints failed requests, throughput and latency of both runs, whether round robin
stayed exact, and how many requests a rate limit let through beside what it may. Exit status 1 where a request failed or
state was lost.
"""
import argparse, os, re, shutil, socket, subprocess, sys, tempfile, threading, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
RATE, BURST = 20, 10


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def write(path, text):
    tmp = path + ".tmp"
    with open(tmp, "w") as f:
        f.write(text)
    os.rename(tmp, path)


def dynamic(ports, extra):
    servers = "".join(f'          - {{url: "http://127.0.0.1:{p}"}}\n' for p in ports)
    other = f"    other{extra}: {{rule: \"Host(`other{extra}.test`)\", service: other}}\n"
    return f"""http:
  routers:
    r: {{rule: "PathPrefix(`/`)", service: s}}
    even: {{rule: "PathPrefix(`/even`)", service: even}}
    limited: {{rule: "PathPrefix(`/limited`)", service: other, middlewares: [limit]}}
{other}  middlewares:
    limit: {{rateLimit: {{average: {RATE}, burst: {BURST}}}}}
  services:
    s:
      loadBalancer:
        servers:
{servers}    even:
      loadBalancer:
        servers:
{servers}    other:
      loadBalancer:
        servers:
{servers}"""


def nginx(folder, ports):
    servers = "".join(f'server {{ listen 127.0.0.1:{p} backlog=1024; location / {{ add_header X-Server {p}; return 200 "hello"; }} }}\n' for p in ports)
    write(f"{folder}/nginx.conf", f"""daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;
fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
{servers} }}""")
    return subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"])


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as r:
            r.read()
            return r.status, r.headers.get("X-Server")
    except urllib.error.HTTPError as e:
        return e.code, None


def wrk(port, seconds):
    out = subprocess.run(["wrk", "-t1", "-c32", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/x"], capture_output=True, text=True).stdout
    number = lambda pattern: (re.search(pattern, out) or [None, "0"])[1]
    failed = int(number(r"Non-2xx or 3xx responses: (\d+)"))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    failed += sum(map(int, errors.groups())) if errors else 0
    return dict(requests=int(number(r"(\d+) requests in")), rps=float(number(r"Requests/sec:\s+([\d.]+)")), failed=failed,
                p50=number(r"50%\s+(\S+)"), p99=number(r"99%\s+(\S+)"))


class Probes(threading.Thread):
    """Beside the load: one client on a service of its own (round robin), one on a limited router."""

    def __init__(self, port, seconds):
        super().__init__()
        self.port, self.seconds, self.order, self.passed, self.bad = port, seconds, [], 0, 0

    def run(self):
        end, start = time.time() + self.seconds, time.time()
        while time.time() < end:
            status, server = get(self.port, "/even")
            self.bad += status != 200
            self.order.append(server)
            for _ in range(3):
                status, _ = get(self.port, "/limited")
                self.passed += status == 200
                self.bad += status not in (200, 429)
            time.sleep(0.01)
        self.took = time.time() - start

    def exact(self):
        """two equal servers must take strict turns"""
        return sum(a == b for a, b in zip(self.order, self.order[1:]))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--binary", default=os.path.join(HERE, "..", "target", "release", "gantry"))
    ap.add_argument("--seconds", type=int, default=30)
    ap.add_argument("--per-second", type=int, default=10)
    a = ap.parse_args()
    folder = tempfile.mkdtemp(prefix="gantry-reload-")
    os.chmod(folder, 0o755)
    ports, port, admin = [free_port(), free_port()], free_port(), free_port()
    file = f"{folder}/dynamic.yaml"
    write(file, dynamic(ports, 0))
    write(f"{folder}/gantry.yaml", f"""entryPoints:
  web: {{address: "127.0.0.1:{port}"}}
  traefik: {{address: "127.0.0.1:{admin}"}}
providers:
  providersThrottleDuration: 10ms
  file: {{filename: "{file}"}}
metrics: {{prometheus: {{}}}}
log: {{level: WARN}}
""")
    backend = nginx(folder, ports)
    gateway = subprocess.Popen([a.binary, f"--configFile={folder}/gantry.yaml"])
    try:
        for _ in range(200):
            try:
                if get(port, "/x")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.05)
        reloads = lambda: float(re.search(r"^gantry_config_reloads_total (\S+)", urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics").read().decode(), re.M)[1])
        wrk(port, 2)
        failed = False
        for name, per_second in (("without reloads", 0), (f"{a.per_second} reloads a second", a.per_second)):
            probes, stop = Probes(port, a.seconds), threading.Event()
            before = reloads()

            def edit():
                k = 0
                while per_second and not stop.wait(1 / per_second):
                    k += 1
                    write(file, dynamic(ports, k))
            editor = threading.Thread(target=edit)
            editor.start(); probes.start()
            r = wrk(port, a.seconds)
            probes.join(); stop.set(); editor.join()
            allowed = RATE * probes.took + BURST
            print(f"{name}: {r['requests']} requests, {r['failed']} failed, {r['rps']:.0f}/s, p50 {r['p50']}, p99 {r['p99']}; "
                  f"{reloads() - before:.0f} reloads applied; round robin: {len(probes.order)} requests, {probes.exact()} out of turn; "
                  f"rate limit: {probes.passed} passed, at most {allowed:.0f} may; other failures {probes.bad}")
            failed |= r["failed"] > 0 or probes.bad > 0 or probes.exact() > 0 or probes.passed > allowed + 2
        sys.exit(1 if failed else 0)
    finally:
        gateway.terminate(); gateway.wait(); backend.terminate(); backend.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
