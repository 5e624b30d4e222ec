#!/usr/bin/python3
"""One version of the brain-extraction model behind HTTP.

    server.py --version 1 --port 9001 --models DIR [--reference DIR] [--threads N]

POST /segment   a .nii or .nii.gz volume in, its mask out, in the same form; X-Model-Version, Server-Timing, and
                X-Model-Dice where the volume is the one whose brain is known. 422 where the body is no volume.
GET  /health    200 once the networks are loaded and warm, 503 until then
GET  /metrics   Prometheus text

One inference runs at a time; further requests wait their turn.
"""

import argparse
import gzip
import logging
import os
import signal
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

import brain

MAX_BODY_BYTES = 512 << 20
MAX_INFLATED_BYTES = 1 << 30
# The networks look at 256^3 voxels at most; four times that is finer than any scanner and still fits into memory.
MAX_VOXELS = 4 * 256**3

log = logging.getLogger("model")


class Refusal(Exception):
    """A request that gets no mask: status and reason, and whether the connection can go on."""

    def __init__(self, status, reason, close=False):
        super().__init__(reason)
        self.status, self.reason, self.close = status, reason, close


def inflate(data):
    """Unpacks gzip, all members, but never more than MAX_INFLATED_BYTES."""
    whole = bytearray()
    while data:
        member = zlib.decompressobj(wbits=31)
        whole += member.decompress(data, MAX_INFLATED_BYTES + 1 - len(whole))
        if len(whole) > MAX_INFLATED_BYTES:
            raise Refusal(422, "the volume is larger than 1 GiB once unpacked")
        if not member.eof:
            raise Refusal(422, "the gzip stream ends too early")
        data = member.unused_data.lstrip(b"\0")
    return bytes(whole)


def read_volume(body):
    """The NIfTI-1 image in a request's body, and whether it was gzip."""
    zipped = body[:2] == b"\x1f\x8b"
    file = inflate(body) if zipped else body
    if len(file) < 352 or file[:4] not in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") or file[344:348] != b"n+1\0":
        raise Refusal(422, "not a NIfTI-1 volume: the header of a single .nii or .nii.gz file is missing")
    try:
        image = nib.Nifti1Image.from_bytes(file)
        shape = image.shape
        if len(shape) not in (3, 4) or shape[3:] not in ((), (1,)) or min(shape) < 1:
            raise Refusal(422, f"one three-dimensional volume is expected, not one of shape {shape}")
        if np.prod(shape, dtype=np.int64) > MAX_VOXELS:
            raise Refusal(422, f"the volume is too large: {shape}; at most {MAX_VOXELS} voxels are read")
        if image.get_data_dtype().kind not in "iuf":
            raise Refusal(422, f"voxels of type {image.get_data_dtype()} are not read")
        if not np.isfinite(image.affine).all() or np.linalg.matrix_rank(image.affine) < 4:
            raise Refusal(422, "the header's affine is not invertible")
        np.asarray(image.dataobj)  # Is every voxel there?
    except Refusal:
        raise
    except Exception as error:  # nibabel raises a dozen kinds for broken files.
        raise Refusal(422, f"not a NIfTI-1 volume: {error or type(error).__name__}") from error
    return image, zipped


class Model:
    """The network and what is counted about it. `segment` may be called from any thread."""

    CODES = (200, 400, 408, 411, 413, 422, 500, 503)

    def __init__(self, version):
        self.version = version
        self.extraction = self.reference = None
        self.turn = threading.Lock()
        self.counting = threading.Lock()
        self.requests = dict.fromkeys(self.CODES, 0)
        self.masks = self.seconds = self.waiting = 0
        self.last_dice = None

    def load(self, models, reference):
        """Loads everything and runs the network until it is warm: TorchScript optimises itself on its first calls."""
        extraction = brain.BrainExtraction(self.version, models)
        known = brain.Reference(reference) if reference else None
        zeros = np.random.default_rng(0).random((64, 64, 64), dtype=np.float32)
        image = known.image if known else nib.Nifti1Image(zeros, np.eye(4))
        for _ in range(2):
            started = time.perf_counter()
            mask = extraction.mask(image)
            log.info("version %d warm-up: %.2f s", self.version, time.perf_counter() - started)
        if known:
            self.last_dice = known.dice(image, mask)
            log.info("version %d validation Dice: %.4f", self.version, self.last_dice)
        self.reference, self.extraction = known, extraction

    def segment(self, image):
        """Mask, seconds of inference, and Dice or None."""
        if self.extraction is None:
            raise Refusal(503, "the model is still loading")
        with self.counting:
            self.waiting += 1
        try:
            with self.turn:
                started = time.perf_counter()
                mask = self.extraction.mask(image)
                seconds = time.perf_counter() - started
        finally:
            with self.counting:
                self.waiting -= 1
        known = self.reference.dice(image, mask) if self.reference else None
        with self.counting:
            self.masks += 1
            self.seconds += seconds
            self.last_dice = self.last_dice if known is None else known
        return mask, seconds, known

    def count(self, status):
        with self.counting:
            self.requests[status] = self.requests.get(status, 0) + 1

    def metrics(self):
        label = f'version="{self.version}"'
        with self.counting:
            page = [
                "# HELP segment_requests_total Requests to /segment, by status.",
                "# TYPE segment_requests_total counter",
                *(f'segment_requests_total{{{label},code="{c}"}} {n}' for c, n in self.requests.items()),
                "# HELP segment_duration_seconds Seconds of inference per mask.",
                "# TYPE segment_duration_seconds summary",
                f"segment_duration_seconds_sum{{{label}}} {self.seconds}",
                f"segment_duration_seconds_count{{{label}}} {self.masks}",
                "# HELP segment_in_progress Requests that run or wait for their turn.",
                "# TYPE segment_in_progress gauge",
                f"segment_in_progress{{{label}}} {self.waiting}",
            ]
            if self.last_dice is not None:
                page += [
                    "# HELP validation_dice Dice of the last mask whose reference was known.",
                    "# TYPE validation_dice gauge",
                    f"validation_dice{{{label}}} {self.last_dice}",
                ]
        return "\n".join(page) + "\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "mri-segmentation"
    timeout = 60  # seconds that a connection may bring nothing
    model: Model

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/health":
            ready = self.model.extraction is not None
            self.answer(200 if ready else 503, b"ok\n" if ready else b"loading\n")
        elif path == "/metrics":
            self.answer(200, self.model.metrics().encode(), {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
        elif path == "/segment":
            self.wrong_method("POST")
        else:
            self.answer(404, b"POST /segment, GET /health and GET /metrics are here\n", close=True)

    do_HEAD = do_GET

    def do_POST(self):
        path = self.path.split("?")[0]
        if path in ("/health", "/metrics"):
            self.wrong_method("GET, HEAD")
        elif path != "/segment":
            self.answer(404, b"POST /segment, GET /health and GET /metrics are here\n", close=True)
        else:
            self.segment()

    def do_PUT(self):
        self.wrong_method("POST" if self.path.split("?")[0] == "/segment" else "GET, HEAD")

    do_DELETE = do_PATCH = do_OPTIONS = do_PUT

    def segment(self):
        status = 500
        try:
            try:
                image, zipped = read_volume(self.body())
                mask, seconds, known = self.model.segment(image)
                file = mask.to_bytes()
                file = gzip.compress(file, 1, mtime=0) if zipped else file
            except Refusal as refusal:
                status = refusal.status
                self.answer(status, f"{refusal.reason}\n".encode(), close=refusal.close)
                return
            except (ConnectionError, TimeoutError):
                status, self.close_connection = 408, True
                return
            except Exception:
                log.exception("the segmentation failed")
                self.answer(500, b"the segmentation failed\n", close=True)
                return
            status = 200
            headers = {
                "Content-Type": "application/gzip" if zipped else "application/octet-stream",
                "Server-Timing": f"inference;dur={seconds * 1000:.1f}",
            }
            if known is not None:
                headers["X-Model-Dice"] = f"{known:.4f}"
            self.answer(200, file, headers)
        finally:
            self.model.count(status)

    def body(self):
        """The request's body, by Content-Length or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self.chunks()
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(411, "Content-Length is missing", close=True)
        if int(length) > MAX_BODY_BYTES:
            raise Refusal(413, "a volume may have 512 MiB at most", close=True)
        return self.exactly(int(length))

    def exactly(self, length):
        data = self.rfile.read(length)
        if len(data) < length:
            raise Refusal(400, "the volume broke off", close=True)
        return data

    def chunks(self):
        whole = bytearray()
        while True:
            try:
                size = int(self.rfile.readline(64).split(b";")[0], 16)
            except ValueError:
                raise Refusal(400, "a chunk's size is not a number", close=True) from None
            if size < 0 or len(whole) + size > MAX_BODY_BYTES:
                raise Refusal(413, "a volume may have 512 MiB at most", close=True)
            if size == 0:
                break
            whole += self.exactly(size)
            self.exactly(2)
        for _ in range(64):  # Trailers, up to the empty line.
            if self.rfile.readline(8192).strip() == b"":
                return bytes(whole)
        raise Refusal(400, "too many trailers", close=True)

    def wrong_method(self, allowed):
        self.answer(405, f"only {allowed} here\n".encode(), {"Allow": allowed}, close=True)

    def answer(self, status, body, headers=None, close=False):
        headers = {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("X-Model-Version", str(self.model.version))
            self.send_header("Content-Length", str(len(body)))
            if close:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format, *args):
        log.info("version %d: " + format, self.model.version, *args)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    environment = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--models", type=Path, default=environment("MODELS"), help="folder of deepbet's .pt files")
    parser.add_argument("--reference", type=Path, default=environment("REFERENCE"), help="folder of nilearn's MNI152 files")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of an inference")
    options = parser.parse_args()
    if options.models is None:
        parser.error("--models or the environment variable MODELS is needed (setup.sh prints it)")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    model = Model(options.version)
    server = Server((options.host, options.port), type("BoundHandler", (Handler,), {"model": model}))
    log.info("version %d listens on http://%s:%d", options.version, *server.server_address[:2])
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    model.load(options.models, options.reference)
    stop.wait()
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
