"""python -m export.tensorrt BUNDLE: build the TensorRT engines that the service would build at its first start."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bundle.cli.command import Command
from bundle.cli.flags import Positional
from bundle.errors import RuntimeUnavailable
from bundle.manifest import GraphName, Precision
from bundle.store import Bundle, load_bundle
from export.errors import ExportError, ParityError, run_command
from runtime.selfcheck import prove
from runtime.trt.engine import Workshop, open_workshop
from runtime.trt.runtime import TensorRTRuntime

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TensorRTConfig:
    """Build a bundle's TensorRT engines for the GPU of this machine, prove them and keep them for the service."""

    bundle: Annotated[Path, Positional("BUNDLE")]
    """The bundle's folder."""
    precision: Precision | None = None
    """What is computed in. Default: fp16 if the bundle comes in it, else fp32, as the service chooses."""
    device: str = "cuda:0"
    """The GPU to build on: engines run on its architecture alone."""
    engine_cache: Path | None = None
    """Where engines are kept; the service's MAEVE_ENGINE_CACHE. Default: maeve/engines in the user's cache folder."""
    max_batch: int | None = None
    """Most images per call. Default: what engines in the cache were built for, else 64."""
    rebuild: bool = False
    """Build engines that are in the cache already, too."""


COMMAND = Command(
    config=TensorRTConfig,
    module="export.tensorrt",
    examples=(
        "python -m export.tensorrt bundles/photos",
        "python -m export.tensorrt bundles/photos --precision fp16 --max-batch 128",
        "python -m export.tensorrt bundles/photos --engine-cache /var/cache/maeve --rebuild",
    ),
    page="docs/tensorrt.md",
    statuses={1: "an engine computes something else than the export saw",
              130: "stopped by Ctrl-C; the engines that are done are kept"},
)  # fmt: skip


@dataclass(frozen=True)
class EngineRow:
    """One line of the report. `seconds`: of building, None where the engine was in the cache."""

    graph: GraphName
    precision: Precision
    max_batch: int
    num_profiles: int
    size_bytes: int
    seconds: float | None


def main() -> None:
    run_command(_build_all, stopped="interrupted; the engines that are done are kept")


def _build_all() -> None:
    config = COMMAND.parse()
    try:
        workshop, rows = build_engines(config, show_progress)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # below the line that shows how far it was
        raise
    print(summary(workshop, rows))


def build_engines(config: TensorRTConfig, progress: Progress = lambda _: None) -> tuple[Workshop, list[EngineRow]]:
    """Build what is not in the cache, then open the runtime as the service does and hold it against the golden outputs.

    `progress` is told what is being done, again and again. ExportError for a wrong option and for a cache that cannot
    be written, RuntimeUnavailable where TensorRT or the GPU is missing, ParityError where an engine computes something
    else than the export saw; KeyboardInterrupt where the user ends a build.
    """
    if config.max_batch is not None and config.max_batch < 1:
        raise ExportError(f"--max-batch must be at least 1, got {config.max_batch}")
    if not re.fullmatch(r"cuda(:\d+)?", config.device):
        raise ExportError(f"--device must be cuda, cuda:0, cuda:1, ..., got {config.device!r}")
    bundle = load_bundle(config.bundle)
    precision = config.precision or ("fp16" if "fp16" in bundle.manifest.graphs["encoder"].files else "fp32")
    gpu = int(config.device.partition(":")[2] or 0)
    workshop = open_workshop(bundle, precision, gpu=gpu, engine_cache=config.engine_cache)
    rows = [_build(workshop, graph, config, progress) for graph in bundle.manifest.graphs]
    progress("proving them on the golden inputs")
    _prove(bundle, TensorRTRuntime(bundle, precision, gpu=gpu, engine_cache=config.engine_cache))
    return workshop, rows


def summary(workshop: Workshop, rows: list[EngineRow]) -> str:
    """The cache's folder and one line per engine."""
    cells = [("graph", "precision", "images", "profiles", "MB", "built")]
    for row in rows:
        built = "before" if row.seconds is None else f"in {row.seconds:.0f} s"
        size = f"{row.size_bytes / 1e6:.1f}"
        cells.append((row.graph, row.precision, f"1-{row.max_batch}", str(row.num_profiles), size, built))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    versions = f"{workshop.cuda.sm}, TensorRT {workshop.trt.__version__}"
    return "\n".join((str(workshop.cache.folder), versions, *table))


def show_progress(line: str) -> None:
    """To stderr, on one line of a terminal; elsewhere, such as in a build's log, a line for every step alone."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="" if "%" in line else "\n", file=sys.stderr, flush=True)
    elif "%" not in line:
        print(line, file=sys.stderr)


class Percentage:
    """How far a build is, from the phases that TensorRT tells of, which lie within each other. Thread-safe."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        """`tell` gets every whole percentage that is reached, once."""
        self._tell = tell
        self._phases: list[tuple[str, int, int]] = []  # (name, steps, steps done), the outermost first
        self._told = -1
        self._lock = threading.Lock()

    def start(self, phase: str, num_steps: int) -> None:
        with self._lock:
            self._phases.append((phase, max(1, num_steps), 0))

    def step(self, phase: str, step: int) -> None:
        with self._lock:
            self._phases = [(n, steps, step + 1 if n == phase else done) for n, steps, done in self._phases]
            part = 0.0
            for _, steps, done in reversed(self._phases):
                part = min(1.0, (done + part) / steps)
            percent = int(100 * part)
            if percent > self._told:
                self._told = percent
                self._tell(percent)

    def finish(self, phase: str) -> None:
        with self._lock:
            self._phases = [entry for entry in self._phases if entry[0] != phase]


def make_monitor(trt: Any, tell: Callable[[int], None]) -> Any:
    """A tensorrt.IProgressMonitor that tells percentages; its `interrupted` says whether the user ended the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """TensorRT's own code calls it and would swallow an exception, Ctrl-C's included; a False ends the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._percentage = Percentage(tell)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self._percentage.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                self._percentage.step(phase_name, step)
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._percentage.finish(phase_name)

    return Monitor()


def _build(workshop: Workshop, graph: GraphName, config: TensorRTConfig, progress: Progress) -> EngineRow:
    precision = workshop.bundle.nearest(graph, workshop.precision)
    monitors: list[Any] = []

    def monitor() -> Any:
        progress(f"building {graph} in {precision}")
        monitors.append(make_monitor(workshop.trt, lambda percent: progress(f"building {graph}: {percent} %")))
        return monitors[0]

    started = time.monotonic()
    try:
        engine = workshop.engine(graph, max_batch=config.max_batch, rebuild=config.rebuild, monitor=monitor)
    except RuntimeUnavailable:
        if any(made.interrupted for made in monitors):
            raise KeyboardInterrupt from None
        raise
    file = workshop.cache.file(graph)
    if not engine.kept:  # though one from before may lie there
        raise ExportError(f"{file} cannot be kept, so building it was in vain; choose another --engine-cache")
    seconds = time.monotonic() - started if engine.built else None
    return EngineRow(graph, precision, engine.max_batch, len(engine.profiles), file.stat().st_size, seconds)


def _prove(bundle: Bundle, runtime: TensorRTRuntime) -> None:
    try:
        prove(bundle, runtime)
    except RuntimeUnavailable as e:
        raise ParityError(str(e)) from e
    finally:
        runtime.close()


if __name__ == "__main__":
    main()
