"""How should ONNX Runtime use a CPU: lanes or threads, arena or malloc, spinning or sleeping?

    python -m benchmarks.ort_cpu_settings [--bundle models/default] [--rounds 5] [--seconds 2]

Each way of setting up a session against the one that `runtime.onnx` uses, one right after the other: images per second
with every lane busy, latency of a lone request, and, in a process of its own, the memory that stays resident after many
calls. Figures are the median of the paired ratios, so that a machine that changes its pace does not matter.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.report import Report
from bundle.masking import all_ids
from bundle.store import Bundle, load_bundle
from runtime.cores import usable_cores
from runtime.onnx import OnnxRuntime, session_options

SERVED = "as served"
_LONE_CALLS = 40


@dataclass(frozen=True)
class Setup:
    """`lanes`: calls at once. `attributes`, `entries`: what differs in the options of the session."""

    lanes: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[str, str] = field(default_factory=dict)

    def open(self, file: Path) -> ort.InferenceSession:
        options = session_options()
        for name, value in self.attributes.items():
            setattr(options, name, value)
        for name, entry in self.entries.items():
            options.add_session_config_entry(name, entry)
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Measured:
    """`rate`: images per second."""

    rate: float
    latency_s: float


def setups(cores: int) -> dict[str, Setup]:
    """By what differs from the runtime's own."""
    level = ort.GraphOptimizationLevel
    threads = {"intra_op_num_threads": cores}
    return {
        SERVED: Setup(cores),
        "1 lane with all threads, asleep": Setup(1, threads),
        "1 lane with all threads, spinning": Setup(1, threads, {"session.intra_op.allow_spinning": "1"}),
        "lanes with all threads each": Setup(cores, threads),
        "no arena": Setup(cores, {"enable_cpu_mem_arena": False}),
        "no memory pattern": Setup(cores, {"enable_mem_pattern": False}),
        "neither": Setup(cores, {"enable_cpu_mem_arena": False, "enable_mem_pattern": False}),
        "no prepacked weights": Setup(cores, entries={"session.disable_prepacking": "1"}),
        "weights outside of the arena": Setup(cores, entries={"session.use_device_allocator_for_initializers": "1"}),
        "basic optimizations": Setup(cores, {"graph_optimization_level": level.ORT_ENABLE_BASIC}),
        "extended optimizations": Setup(cores, {"graph_optimization_level": level.ORT_ENABLE_EXTENDED}),
        "denormals as zero": Setup(cores, entries={"session.set_denormal_as_zero": "1"}),
    }


def inputs(bundle: Bundle, n: int) -> dict[str, NDArray[Any]]:
    model = bundle.manifest.model
    pixels = np.random.default_rng(n).integers(0, 256, (n, *model.image_size, model.channels), dtype=np.uint8)
    return {"images": pixels, "ids_keep": np.ascontiguousarray(all_ids(n, model.num_patches))}


def throughput(session: ort.InferenceSession, lanes: int, batch: dict[str, NDArray[Any]], seconds: float) -> float:
    """Images per second with every lane calling."""
    counts = [0] * lanes
    until = time.perf_counter() + seconds

    def loop(lane: int) -> None:
        while time.perf_counter() < until:
            session.run(None, batch)
            counts[lane] += 1

    started = time.perf_counter()
    threads = [threading.Thread(target=loop, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * len(batch["images"]) / (time.perf_counter() - started)


def latency(session: ort.InferenceSession, one: dict[str, NDArray[Any]]) -> float:
    """Seconds of a call when nothing else runs, the median."""
    times = []
    for _ in range(_LONE_CALLS):
        start = time.perf_counter()
        session.run(None, one)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def resident_mib(bundle: Bundle, file: Path, setup: Setup) -> float:
    """What the session adds to this process once it has seen batches of 1 to 8, the largest first."""

    def now() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    before = now()
    session = setup.open(file)
    for n in (8, 1, 4, 2, 1):
        throughput(session, setup.lanes, inputs(bundle, n), 0.2)
    return now() - before


@dataclass(frozen=True)
class Bench:
    """Every setup's session, and the inputs that all are called with."""

    ways: Mapping[str, Setup]
    sessions: Mapping[str, ort.InferenceSession]
    one: dict[str, NDArray[Any]]
    batch: dict[str, NDArray[Any]]

    def measure(self, name: str, seconds: float) -> Measured:
        session = self.sessions[name]
        return Measured(throughput(session, self.ways[name].lanes, self.batch, seconds), latency(session, self.one))

    def pairs(self, rounds: int, seconds: float) -> dict[str, list[tuple[Measured, Measured]]]:
        """By setup: (it, the served one) of each round, one right after the other, every other time the other first."""
        for name in self.ways:
            self.measure(name, 0.1)
        pairs: dict[str, list[tuple[Measured, Measured]]] = {name: [] for name in self.ways if name != SERVED}
        for number in range(rounds):
            for name, found in pairs.items():
                order = [SERVED, name] if number % 2 else [name, SERVED]
                results = {each: self.measure(each, seconds) for each in order}
                found.append((results[name], results[SERVED]))
            print(f"round {number + 1} of {rounds}", flush=True)
        return pairs


def main() -> None:
    args = _arguments()
    bundle = load_bundle(args.bundle)
    file = bundle.graph_file("encoder", args.precision)
    ways = setups(usable_cores())
    if args.memory_of is not None:
        print(resident_mib(bundle, file, ways[args.memory_of]))
        return
    ort.set_default_logger_severity(3)  # a setup that overwrites an option of the runtime's is no reason to warn
    sessions = {name: way.open(file) for name, way in ways.items()}
    pairs = Bench(ways, sessions, inputs(bundle, 1), inputs(bundle, args.batch)).pairs(args.rounds, args.seconds)
    memory = {name: _memory_of(name, args) for name in ways}
    report = Report("ort_cpu_settings", __doc__ or "")
    model = bundle.manifest.model
    size = f"{model.image_size[0]} x {model.image_size[1]} px, patch {model.patch_size}, {model.depth} x {model.dim}"
    report.add("bundle", f"{bundle.manifest.name} in {args.precision}: {size}")
    report.add("setting", f"batches of {args.batch} on {ways[SERVED].lanes} lanes, {args.rounds} rounds")
    _add_figures(report, pairs, memory)
    report.write()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--batch", type=int, default=OnnxRuntime.max_batch, help="images per call while all lanes run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each setup in a round")
    parser.add_argument("--memory-of", metavar="SETUP", help="print the resident MiB of one setup and end")
    return parser.parse_args()


def _add_figures(
    report: Report, pairs: Mapping[str, list[tuple[Measured, Measured]]], memory: Mapping[str, float]
) -> None:
    """The served setup's own, and of every other its ratio to them."""
    served = [pair[1] for found in pairs.values() for pair in found]
    rate, late = (statistics.median(values) for values in zip(*((m.rate, m.latency_s) for m in served), strict=True))
    report.add(SERVED, f"{rate:.0f} img/s, {late * 1000:.1f} ms, {memory[SERVED]:.0f} MiB")
    for name, found in pairs.items():
        rate = statistics.median(way.rate / base.rate for way, base in found)
        late = statistics.median(way.latency_s / base.latency_s for way, base in found)
        report.add(name, f"{rate:.2f}x the images, {late:.2f}x the latency, {memory[name]:.0f} MiB")


def _memory_of(setup: str, args: argparse.Namespace) -> float:
    command = [sys.executable, "-m", "benchmarks.ort_cpu_settings", "--memory-of", setup]
    command += ["--bundle", str(args.bundle), "--precision", args.precision]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
