"""One engine in a process of its own: python -m export.bench.worker, driven over stdin and stdout by `client.Worker`.

Each line of stdin is a request {"op": ..., arguments}, each line of stdout its answer {"value": ...} or {"error": ...}.
Alone in its process an engine's memory is its own, its threads stand in nobody's way between its turns, and its crash
ends no other. Imports neither torch nor onnx, unless the matrix peak is asked for.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from bundle.errors import MaeveError
from bundle.manifest import GraphName, Manifest
from bundle.store import Bundle, load_bundle
from runtime.base import Arrays, Runtime

Opener = Callable[[Bundle, Mapping[str, Any]], Runtime]
GRAPH: GraphName = "encoder"
_WARM_UP_CALLS = 2  # per lane: the first call of a shape plans its memory, and may compile
_LEAST_CALLS = 3
_MADE_IMAGES = 64


class Bench:
    """The requests, a method each. Arguments are JSON values, times seconds."""

    def __init__(self, openers: Mapping[str, Opener]) -> None:
        self._openers = openers
        self._prepared: dict[tuple[int, int], list[Arrays]] = {}

    def open(self, opener: str, bundle: str, images: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Load the engine. `images`: an .npz with `images` u8 [n, H, W, C] to time it on; None takes noise."""
        loaded = load_bundle(Path(bundle))
        self._manifest = loaded.manifest
        self._images = _read_images(self._manifest, images)
        before = memory_bytes("VmRSS")
        self._runtime = self._openers[opener](loaded, arguments)
        self._pool = ThreadPoolExecutor(self._runtime.lanes)
        engine = self._runtime
        return {
            "runtime": engine.name, "device": engine.device, "precision": engine.precision, "lanes": engine.lanes,
            "max_batch": engine.max_batch, "details": dict(engine.details), "before_bytes": before,
        }  # fmt: skip

    def outputs(self, inputs: str, out: str) -> None:
        """Run the encoder on the arrays of one .npz, max_batch images at a time, and leave its outputs in another."""
        with np.load(inputs) as arrays:
            given = dict(arrays)
        step = self._runtime.max_batch
        parts = [
            self._runtime.run(GRAPH, {name: np.ascontiguousarray(a[i : i + step]) for name, a in given.items()})
            for i in range(0, len(given["images"]), step)
        ]
        np.savez(out, allow_pickle=False, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def calls(self, batch: int, ids: list[int], seconds: float) -> list[float]:
        """Seconds of every call, one after another."""
        inputs = itertools.cycle(self._inputs(batch, ids))
        with _undisturbed():
            return list(_timed(lambda: self._embed(next(inputs)), seconds))

    def rate(self, batch: int, ids: list[int], seconds: float) -> float:
        """Images per second with every lane busy: a thread each, as the service calls a runtime."""
        prepared = self._inputs(batch, ids)
        start = threading.Barrier(self._runtime.lanes)

        def lane(number: int) -> float:
            inputs = itertools.islice(itertools.cycle(prepared), number, None)
            start.wait()
            times = list(_timed(lambda: self._embed(next(inputs)), seconds))
            return batch * len(times) / sum(times)

        with _undisturbed():
            return sum(self._pool.map(lane, range(self._runtime.lanes)))

    def together(self, num_images: int, ids: list[int], seconds: float) -> list[float]:
        """Seconds until `num_images` are done, shared out over the lanes, time after time."""
        sizes = [len(part) for part in np.array_split(np.arange(num_images), self._runtime.lanes) if len(part)]
        inputs = [self._inputs(size, ids)[0] for size in sizes]

        def run() -> None:
            list(self._pool.map(self._embed, inputs))

        with _undisturbed():
            return list(_timed(run, seconds))

    def memory(self) -> int | None:
        """The most that was ever resident, in bytes."""
        return memory_bytes("VmHWM")

    def peak(self, device: str, precision: str, threads: int, seconds: float) -> dict[str, Any] | None:
        """As `export.bench.peak.matrix_peak`."""
        from export.bench.peak import matrix_peak

        return matrix_peak(device, precision, threads=threads, seconds=seconds)

    def _embed(self, inputs: Arrays) -> Arrays:
        """What /embed asks an engine for."""
        return self._runtime.run(GRAPH, inputs, ("cls", "mean"))

    def _inputs(self, batch: int, ids: list[int]) -> list[Arrays]:
        """Two different batches to take turns, warmed up where they are new."""
        key = (batch, len(ids))
        if key not in self._prepared:
            kept = np.ascontiguousarray(np.broadcast_to(np.array(ids, np.int64), (batch, len(ids))))
            rows = [np.arange(first, first + batch) % len(self._images) for first in (0, batch)]
            self._prepared[key] = [{"images": self._images[row], "ids_keep": kept} for row in rows]
            for _ in range(_WARM_UP_CALLS):
                jobs = [self._prepared[key][0]] * self._runtime.lanes
                list(self._pool.map(self._embed, jobs))
        return self._prepared[key]


def open_engine(bundle: Bundle, arguments: Mapping[str, Any]) -> Runtime:
    """One of ours: `runtime.open_runtime`."""
    from runtime.select import open_runtime

    return open_runtime(bundle, arguments["runtime"], device=arguments["device"], precision=arguments["precision"])


OPENERS: Mapping[str, Opener] = {"engine": open_engine}


def serve(openers: Mapping[str, Opener] = OPENERS) -> None:
    """Answer requests until stdin ends."""
    answers = _own_stdout()
    bench = Bench(openers)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(bench, request.pop("op"))(**request)}
        except MaeveError as e:
            answer = {"error": str(e)}
        except Exception as e:  # noqa: BLE001 - whatever an engine throws is its row's result
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), file=answers, flush=True)


def memory_bytes(field: str) -> int | None:
    """VmRSS, resident now, or VmHWM, the most that ever was; None where there is no /proc.

    Not getrusage: after fork and exec its maximum is that of the parent.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _read_images(manifest: Manifest, file: str | None) -> NDArray[np.uint8]:
    """u8 [n, H, W, C]"""
    if file is None:
        shape = (_MADE_IMAGES, *manifest.model.image_size, manifest.model.channels)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with np.load(file) as arrays:
        images: NDArray[np.uint8] = arrays["images"]
        return images


def _timed(call: Callable[[], object], seconds: float) -> Iterator[float]:
    """The seconds of each call, for `seconds` in all but at least a few calls; each result is dropped at once."""
    begin = time.perf_counter()
    for number in itertools.count(1):
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        yield end - start
        if end - begin >= seconds and number >= _LEAST_CALLS:
            return


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection of Python's while times are taken."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _own_stdout() -> TextIO:
    """stdout, for our answers alone: what engines print from now on goes to stderr."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


if __name__ == "__main__":
    serve()
