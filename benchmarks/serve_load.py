"""How much of a bare decode + session.run loop is left once it stands behind HTTP?

    python -m benchmarks.serve_load [--bundle models/default] [--images DIR]

The limit: as many threads as cores, each decoding an image and running its own one-thread session, nothing else. The
service: `python -m service` as a process of its own, caches off, under keep-alive clients that share its cores. Both in
turns, several times; the ratio is the median of the paired ratios. No two requests carry the same bytes, so that
neither a cache nor the sharing of identical requests in flight can help.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import uvloop
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import Report
from bundle.masking import all_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle, load_bundle
from runtime.cores import usable_cores
from runtime.onnx import load_session

_COUNTER_BYTES = 8


def read_images(folder: Path | None) -> list[bytes]:
    """The JPEGs of a folder, or made ones of about the size of ImageNet's."""
    if folder is None:
        return [_made_photo(seed) for seed in range(64)]
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{folder} holds no JPEG")
    return [f.read_bytes() for f in files]


def _made_photo(seed: int) -> bytes:
    """500 x 375: noise at several scales, as natural images have it, and so a JPEG of a photo's weight."""
    rng = np.random.default_rng(seed)
    image = np.zeros((375, 500, 3), np.float32)
    for size, weight in ((4, 1.0), (16, 0.6), (64, 0.3), (250, 0.15)):
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        image += weight * np.asarray(noise.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
    out = BytesIO()
    Image.fromarray((image / 2.05).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


class Bodies:
    """Endless images, each with a number behind its end, where decoders do not look: never twice the same bytes."""

    def __init__(self, images: list[bytes]) -> None:
        self._images = images
        self._count = itertools.count()

    def __next__(self) -> bytes:
        n = next(self._count)
        return self._images[n % len(self._images)] + n.to_bytes(_COUNTER_BYTES, "big")

    def __iter__(self) -> Iterator[bytes]:
        return self


def limit(bundle: Bundle, bodies: Bodies, seconds: float) -> float:
    """Images per second of the bare loop."""
    manifest = bundle.manifest
    ids: NDArray[np.int64] = np.ascontiguousarray(all_ids(1, manifest.model.num_patches))
    sessions = [load_session(bundle.graph_file("encoder")) for _ in range(usable_cores())]
    counts = [0] * len(sessions)
    until = time.perf_counter() + seconds

    def loop(lane: int) -> None:
        while time.perf_counter() < until:
            pixels = preprocess(next(bodies), manifest.preprocess, channels=manifest.model.channels)
            sessions[lane].run(["cls", "mean", "tokens"], {"images": pixels[None], "ids_keep": ids})
            counts[lane] += 1

    started = time.perf_counter()
    threads = [threading.Thread(target=loop, args=(lane,)) for lane in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


@contextmanager
def service(bundle: Path) -> Iterator[int]:
    """A service with its caches off; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "service", "--bundle", str(bundle), "--port", str(port), "--cache-bytes", "0"]
    command += ["--runtime", "onnxruntime", "--device", "cpu", "--precision", "fp32"]  # what the limit runs
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAEVE_")}
    process = subprocess.Popen([*command, "--log-level", "warning"], env=environment)
    try:
        _wait_until_open(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the service did not start")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the service did not start within a minute")


async def load(port: int, bodies: Bodies, clients: int, seconds: float, accept: str) -> list[float]:
    """Latencies in seconds of all requests answered within `seconds`."""
    until = time.perf_counter() + seconds
    results = await asyncio.gather(*(_client(port, bodies, until, accept) for _ in range(clients)))
    return [latency for latencies in results for latency in latencies]


async def _client(port: int, bodies: Bodies, until: float, accept: str) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies = []
    while (start := time.perf_counter()) < until:
        body = next(bodies)
        head = (
            f"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nAccept: {accept}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.writelines([head.encode(), body])
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the service answered {answer!r}")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        if (end := time.perf_counter()) < until:
            latencies.append(end - start)
    writer.close()
    await writer.wait_closed()
    return latencies


def _rss_mib(port: int) -> str:
    """The service's memory by its own account."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    value = next(line.split()[1] for line in lines if line.startswith("process_resident_memory_bytes"))
    return f"{float(value) / 2**20:.0f}"


@dataclass
class Measured:
    """`limits`, `rates`: images per second of the bare loop and of the service, a pair each round."""

    limits: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    memory_mib: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; made ones by default")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each half of a round")
    parser.add_argument("--accept", default="application/json")
    args = parser.parse_args()

    bundle = load_bundle(args.bundle)
    images = read_images(args.images)
    measured = _measure(bundle, Bodies(images), args)
    report = Report("serve_load", __doc__ or "")
    model = bundle.manifest.model
    size = f"{model.image_size[0]} x {model.image_size[1]} px, patch {model.patch_size}, {model.depth} x {model.dim}"
    report.add("bundle", f"{bundle.manifest.name}: {size}")
    report.add("images", f"{len(images)} JPEGs, {statistics.mean(map(len, images)) / 1000:.0f} kB on average")
    report.add("clients", str(args.clients))
    _add_figures(report, measured)
    report.write()


def _measure(bundle: Bundle, bodies: Bodies, args: argparse.Namespace) -> Measured:
    """The bare loop and the service in turns, each warmed up before."""
    found = Measured()
    with service(args.bundle) as port:
        limit(bundle, bodies, 1.0)
        uvloop.run(load(port, bodies, args.clients, 2.0, args.accept))
        for number in range(args.rounds):
            most = limit(bundle, bodies, args.seconds)
            latencies_s = uvloop.run(load(port, bodies, args.clients, args.seconds, args.accept))
            rate = len(latencies_s) / args.seconds
            found.limits.append(most)
            found.rates.append(rate)
            found.latencies_s += latencies_s
            print(f"round {number + 1}: limit {most:.1f} img/s, service {rate:.1f} img/s", flush=True)
        found.memory_mib = _rss_mib(port)
    return found


def _add_figures(report: Report, found: Measured) -> None:
    report.add("bare loop", f"{statistics.median(found.limits):.1f} img/s")
    report.add("service", f"{statistics.median(found.rates):.1f} img/s")
    ratios = [rate / most for rate, most in zip(found.rates, found.limits, strict=True)]
    report.add(
        "service / bare loop", f"{statistics.median(ratios):.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f})"
    )
    p50, p99 = np.percentile(found.latencies_s, [50, 99]) * 1000
    report.add("latency p50 / p99", f"{p50:.0f} / {p99:.0f} ms")
    report.add("memory of the service", f"{found.memory_mib} MiB")


if __name__ == "__main__":
    main()
