"""An engine without a network, for tests: the manifest's shapes, numbers that depend on every image's own pixels."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InferenceError
from bundle.manifest import GraphName, Manifest
from bundle.store import Bundle
from runtime.base import Arrays, ServedPrecision
from runtime.specs import check_inputs, output_shape, wanted_outputs

Poison = Callable[[NDArray[Any]], bool]


class FakeRuntime:
    """Row i of every output depends on row i of the inputs alone, so a test can tell whose answer it got.

    `latency_ms`: how long a call takes, whatever its size. `fail_on`: told row i of the graph's first input (an image,
    for the encoder), says whether it is poison; one such row fails its whole call with InferenceError, as on a real
    device. `calls` lists (graph, N) of every call so far, failed ones included; `peak` is how many ran at once at most.
    """

    name = "fake"
    device = "cpu"

    def __init__(
        self,
        source: Bundle | Manifest,
        *,
        latency_ms: float = 0,
        lanes: int = 1,
        max_batch: int = 8,
        buckets: tuple[int, ...] = (),
        fail_on: Poison | None = None,
    ) -> None:
        self.manifest = source.manifest if isinstance(source, Bundle) else source
        self.precision: ServedPrecision = "fp32"
        self.details: Mapping[str, str | int] = {}
        self.lanes = lanes
        self.max_batch = max_batch
        self.buckets = buckets
        self.latency_ms = latency_ms
        self.fail_on = fail_on
        self.calls: list[tuple[GraphName, int]] = []
        self.peak = 0
        self._running = 0
        self._lock = threading.Lock()
        self._closed = False

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        if self._closed:
            raise InferenceError("the runtime is closed")
        spec = self.manifest.graphs[graph]
        axes = check_inputs(spec, inputs)
        outputs = wanted_outputs(spec, wanted)
        with self._lock:
            self.calls.append((graph, axes["N"]))
            self._running += 1
            self.peak = max(self.peak, self._running)
        try:
            time.sleep(self.latency_ms / 1000)
            first = inputs[spec.inputs[0].name]
            if self.fail_on is not None and any(self.fail_on(row) for row in first):
                raise InferenceError(f"{graph}: poisoned input")
        finally:
            with self._lock:
                self._running -= 1
        seeds = [_row_seed(inputs, row) for row in range(axes["N"])]
        return {t.name: _noise(f"{graph}.{t.name}", seeds, output_shape(t, axes)) for t in outputs}

    def close(self) -> None:
        self._closed = True


def _row_seed(inputs: Mapping[str, NDArray[Any]], row: int) -> int:
    seed = 0
    for name in sorted(inputs):
        seed = zlib.crc32(inputs[name][row].tobytes(), seed)
    return seed


def _noise(name: str, seeds: list[int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    salt = zlib.crc32(name.encode())
    return np.stack([np.random.default_rng((salt, s)).standard_normal(shape[1:], dtype=np.float32) for s in seeds])
