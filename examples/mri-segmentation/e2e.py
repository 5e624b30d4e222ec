#!/usr/bin/python3
"""The example end to end: the real volume through Gantry to both versions of the model.

    e2e.py [--gantry COMMAND]                     starts the models and the gateway itself, on free loopback ports
    e2e.py --gateway URL --admin URL --dynamic F  uses a gateway that runs, and edits its dynamic file F
                                                  (it is put back afterwards)

COMMAND is called as `COMMAND --configFile=FILE`; default: the environment variable GANTRY, else
target/release/gantry of this repository. Needs what setup.sh installs, and runs it. Ends with 0 where all holds.
"""

import argparse
import gzip
import http.client
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
MODEL = "mri-segmentation"
DEADLINE = 120  # seconds that anything may take to come up


def setup():
    """What setup.sh prints, as a dictionary."""
    lines = subprocess.run([HERE / "setup.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {name: shlex.split(value)[0] for name, value in (line.split("=", 1) for line in lines)}


PATHS = setup()
if Path(sys.prefix) != Path(PATHS["PYTHON"]).parent.parent:  # numpy and nibabel are Debian's
    os.execv(PATHS["PYTHON"], [PATHS["PYTHON"], *sys.argv])

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402

REFERENCE = Path(PATHS["REFERENCE"])


class Failed(Exception):
    """Something that should hold does not."""


def check(holds, message):
    if not holds:
        raise Failed(message)


def until(what, condition, seconds=DEADLINE):
    """Waits for `condition` to return something true, and returns that; errors of the connection count as false."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except (OSError, http.client.HTTPException):
            pass
        check(time.monotonic() < end, f"within {seconds} s: {what}")
        time.sleep(0.05)


def call(base, method, path, body=None, headers=None):
    """One request on a connection of its own: status, headers, body."""
    address = urlsplit(base)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=DEADLINE)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def samples(page):
    """A Prometheus page as {name: [(labels, value)]}."""
    found = {}
    for line in page.splitlines():
        if match := re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            found.setdefault(match[1], []).append((labels, float(match[3])))
    return found


class Gateway:
    """The gateway under test, and the file it is steered by."""

    def __init__(self, url, admin, dynamic):
        self.url, self.admin, self.dynamic = url.rstrip("/"), admin.rstrip("/"), Path(dynamic)

    def segment(self, body, host="mri.example.com"):
        return call(self.url, "POST", "/segment", body, {"Host": host})

    def metrics(self):
        status, _, page = call(self.admin, "GET", "/metrics")
        check(status == 200, f"/metrics answers {status}")
        return samples(page.decode())

    def value(self, name, **labels):
        """Sum of the samples of a series whose labels include `labels`; None where there are none."""
        values = [v for have, v in self.metrics().get(name, []) if labels.items() <= have.items()]
        return sum(values) if values else None

    def reloads(self):
        series = (v for name, v in self.metrics().items() if name.endswith("_config_reloads_total"))
        return sum(value for samples in series for _, value in samples)

    def weights(self, first, second):
        """Shifts the weights the way an editor saves: a new file, renamed over the old one. Waits for the reload."""
        text = self.dynamic.read_text()
        for version, weight in ((1, first), (2, second)):
            text, count = re.subn(rf"(name: mri-v{version}, weight: )\d+", rf"\g<1>{weight}", text)
            check(count == 1, f"{self.dynamic} has one weight of mri-v{version}")
        if text == self.dynamic.read_text():
            return
        before = self.reloads()
        replace(self.dynamic, text)
        until("the edited weights are loaded", lambda: self.reloads() > before, 15)


def replace(path, text):
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.rename(path)


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def start(stack, command, log, cwd):
    """A process that ends with the stack."""
    output = stack.enter_context(open(log, "wb"))
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=cwd)

    def stop():
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)
    return process


def ready(name, process, base, path, log):
    def up():
        check(process.poll() is None, f"{name} ended:\n{Path(log).read_text(errors='replace')[-3000:]}")
        return call(base, "GET", path)[0] == 200

    until(f"{name} is up", up)


def start_everything(stack, gantry, threads):
    """Both models and the gateway from the example's own files, on free ports in a folder that goes away."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gantry-e2e-")))
    web, admin, first, second = free_ports(4)
    ports = {"8000": web, "8080": admin, "9001": first, "9002": second}

    def adapted(name):
        return re.sub(r"127\.0\.0\.1:(\d+)", lambda m: f"127.0.0.1:{ports[m[1]]}", (HERE / name).read_text())

    (folder / "dynamic").mkdir()
    (folder / "run").mkdir()
    token = folder / "run" / "feedback.token"
    token.touch(0o600)
    token.write_text(secrets.token_urlsafe(24) + "\n")
    (folder / "gantry.yaml").write_text(adapted("gantry.yaml"))
    (folder / "dynamic" / "mri.yaml").write_text(adapted("dynamic/mri.yaml"))
    models = []
    for version, port in ((1, first), (2, second)):
        log = folder / f"model-v{version}.log"
        command = [PATHS["PYTHON"], HERE / "server.py", "--version", str(version), "--port", str(port)]
        command += ["--models", PATHS["MODELS"], "--reference", PATHS["REFERENCE"]]
        command += ["--threads", str(threads)] if threads else []
        models.append((f"model version {version}", start(stack, command, log, HERE), port, log))
    for name, process, port, log in models:
        ready(name, process, f"http://127.0.0.1:{port}", "/health", log)
    log = folder / "gantry.log"
    process = start(stack, [*shlex.split(gantry), f"--configFile={folder / 'gantry.yaml'}"], log, folder)
    ready("the gateway", process, f"http://127.0.0.1:{admin}", "/ping", log)
    return Gateway(f"http://127.0.0.1:{web}", f"http://127.0.0.1:{admin}", folder / "dynamic" / "mri.yaml")


class Run:
    """The test: requests that were sent, and what came back."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.volume_path = REFERENCE / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
        self.zipped = self.volume_path.read_bytes()
        self.plain = gzip.decompress(self.zipped)
        self.image = nib.load(self.volume_path)
        grey, white = (
            np.asarray(nib.load(REFERENCE / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz").dataobj, float)
            for tissue in ("gm", "wm")
        )
        self.truth = grey / grey.max() + white / white.max() > 0.5
        self.seconds = {"1": [], "2": []}
        self.dice = {}
        self.masks = {}
        self.sent = Counter()  # (version, bytes)

    def segment(self, body=None, host="mri.example.com"):
        """One volume through the gateway; checks the mask and returns the version that made it."""
        body = body or self.zipped
        started = time.perf_counter()
        status, headers, answer = self.gateway.segment(body, host)
        seconds = time.perf_counter() - started
        check(status == 200, f"/segment answers {status}: {answer[:300]!r}")
        version = headers["X-Model-Version"]
        zipped = body is not self.plain
        check(answer[:2] == b"\x1f\x8b" if zipped else answer[:2] == b"\x5c\x01", "the mask comes in the volume's form")
        kind = "application/gzip" if zipped else "application/octet-stream"
        check(headers["Content-Type"] == kind, f"Content-Type is {headers['Content-Type']}, not {kind}")
        mask = nib.Nifti1Image.from_bytes(gzip.decompress(answer) if zipped else answer)
        check(mask.shape == self.image.shape, f"the mask's shape is {mask.shape}")
        check(np.allclose(mask.affine, self.image.affine), "the mask lies where the volume lies")
        check(mask.get_data_dtype() == np.uint8, f"the mask's voxels are {mask.get_data_dtype()}")
        mask = np.asarray(mask.dataobj)
        check(set(np.unique(mask)) == {0, 1}, "the mask holds 0 and 1")
        inside = mask == 1
        dice = 2 * np.count_nonzero(inside & self.truth) / (np.count_nonzero(inside) + np.count_nonzero(self.truth))
        check(abs(float(headers["X-Model-Dice"]) - dice) < 1e-4, f"X-Model-Dice {headers['X-Model-Dice']} is {dice:.4f}")
        check(0.8 < dice < 1, f"version {version} finds the brain (Dice {dice:.4f})")
        self.seconds[version].append(seconds)
        self.dice[version], self.masks[version] = dice, inside
        self.sent[version] += 1
        return version

    def shares(self, first, second, count):
        """Sets weights, sends `count` volumes, and checks that each version gets exactly its share."""
        self.gateway.weights(first, second)
        got = Counter(self.segment() for _ in range(count))
        expected = {"1": count * first // (first + second), "2": count * second // (first + second)}
        check(all(got[v] == n for v, n in expected.items()), f"weights {first}/{second}: {dict(got)}, not {expected}")
        print(f"weights {first:3}/{second:<3} {count:3} volumes: {got['1']} to version 1, {got['2']} to version 2")

    def refusals(self):
        status, _, answer = self.gateway.segment(b"this is no volume")
        check(status == 422 and b"NIfTI" in answer, f"no volume: {status} {answer!r}")
        status, _, _ = self.gateway.segment(b"", host="elsewhere.example.com")
        check(status == 404, f"another host: {status}")
        status, _, _ = call(self.gateway.url, "GET", "/segment", headers={"Host": "mri.example.com"})
        check(status == 405, f"GET /segment: {status}")
        print("no volume: 422; another host: 404; another method: 405")

    def counters(self):
        """The counters that the requests move, by version."""
        names = ("model_requests_total", "model_inference_duration_seconds_count")
        return {
            (name, version): self.gateway.value(name, model=MODEL, version=version, code="200") or 0
            for name in names
            for version in ("1", "2")
        }

    def counted(self, before):
        def holds():
            now = self.counters()
            return all(now[name, v] - before[name, v] == self.sent[v] for name, v in now)

        try:
            until("", holds, 5)
        except Failed:
            raise Failed(f"sent {dict(self.sent)}; before {before}; now {self.counters()}") from None
        for version, dice in self.dice.items():
            labels = {"model": MODEL, "version": version, "source": "reported", "label": "dice"}
            accuracy = self.gateway.value("model_accuracy", **labels)
            check(accuracy is not None, f"model_accuracy of version {version} is there")
            check(abs(accuracy - dice) < 1e-4, f"model_accuracy of version {version} is {accuracy}, not {dice:.4f}")
            took = self.gateway.value("model_inference_time_seconds", model=MODEL, version=version)
            mean = f", mean of the last minute {took:.2f} s" if took is not None else ""
            print(f"/metrics: version {version}: {self.sent[version]} requests, accuracy {accuracy:.4f}{mean}")

    def table(self):
        print(f"\n{'version':8}{'volumes':>8}{'min s':>8}{'mean s':>8}{'max s':>8}{'Dice':>8}")
        for version, seconds in self.seconds.items():
            low, mean, high = min(seconds), sum(seconds) / len(seconds), max(seconds)
            print(f"{version:8}{len(seconds):8}{low:8.2f}{mean:8.2f}{high:8.2f}{self.dice[version]:8.4f}")
        first, second = self.masks["1"], self.masks["2"]
        both = np.count_nonzero(first & second)
        print(f"agreement of the two: {2 * both / (np.count_nonzero(first) + np.count_nonzero(second)):.4f}")


def test(gateway):
    run = Run(gateway)
    run.gateway.weights(1, 1)
    before = run.counters()
    until("both versions answer", lambda: {run.segment() for _ in range(2)} == {"1", "2"}, 60)
    run.shares(90, 10, 10)
    run.shares(0, 100, 2)
    run.shares(100, 0, 3)
    run.shares(50, 50, 4)
    run.segment(run.plain)
    run.segment(host="localhost")
    run.refusals()
    run.counted(before)
    run.table()


def check_compose():
    """The containers' dynamic file is the same but for where the servers are, and takes no feedback."""
    texts = [(HERE / folder / "mri.yaml").read_text() for folder in ("dynamic", "compose/dynamic")]
    first, second = (re.sub(r'"http://[^"]+"|      keepMasks: .*\n', "", text) for text in texts)
    check(first == second, "dynamic/mri.yaml and compose/dynamic/mri.yaml differ only in their URLs and keepMasks")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gantry", default=os.environ.get("GANTRY", HERE.parents[1] / "target/release/gantry"))
    parser.add_argument("--threads", type=int, help="threads of an inference; default: all cores")
    parser.add_argument("--gateway", help="URL of an entry point that routes mri.example.com and localhost")
    parser.add_argument("--admin", help="URL of the entry point that serves /metrics")
    parser.add_argument("--dynamic", type=Path, help="the dynamic file with the weights of mri-v1 and mri-v2")
    options = parser.parse_args()
    given = [options.gateway, options.admin, options.dynamic]
    if any(given) and not all(given):
        parser.error("--gateway, --admin and --dynamic go together")
    started = time.monotonic()
    try:
        check_compose()
        with ExitStack() as stack:
            if options.gateway:
                gateway = Gateway(options.gateway, options.admin, options.dynamic)
                stack.callback(replace, gateway.dynamic, gateway.dynamic.read_text())
            else:
                gateway = start_everything(stack, str(options.gantry), options.threads)
            test(gateway)
    except Failed as failure:
        sys.exit(f"e2e: FAILED: {failure}")
    print(f"e2e: all holds ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
