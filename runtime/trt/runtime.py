"""A bundle served by TensorRT on one GPU."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InferenceError, OutOfMemory, RuntimeUnavailable
from bundle.manifest import GraphName, Precision
from bundle.store import Bundle
from runtime.base import Arrays, ServedPrecision
from runtime.specs import check_inputs, output_shape, wanted_outputs
from runtime.trt.engine import Engine, open_workshop
from runtime.trt.lane import Lane
from runtime.trt.profiles import bucket, buckets

LANES = 2  # while one batch is computed, the other one's pixels and results travel; a third would only wait
_CALLS_UNTIL_READY = 2  # the second one captures the CUDA graph


class TensorRTRuntime:
    """Every graph of the bundle, loaded and warm on the GPU with index `gpu`.

    Engines come from `engine_cache` (None: the user's cache folder) or are built, which takes minutes.
    RuntimeUnavailable where a library, the GPU or its memory is missing, or TensorRT refuses a graph; BundleError if
    the bundle does not come in `precision`.
    """

    name = "tensorrt"
    lanes = LANES

    def __init__(self, bundle: Bundle, precision: Precision, *, gpu: int, engine_cache: Path | None) -> None:
        self.device = f"cuda:{gpu}"
        self.precision: ServedPrecision = precision
        self._num_patches = bundle.manifest.model.num_patches
        workshop = open_workshop(bundle, precision, gpu=gpu, engine_cache=engine_cache)
        self._cuda, self._workshop = workshop.cuda, workshop
        self._engines = {graph: workshop.engine(graph) for graph in bundle.manifest.graphs}
        self.max_batch = min(engine.max_batch for engine in self._engines.values())
        self.buckets = buckets(self.max_batch)
        self._idle: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()  # None: closed
        self._closed = False
        lanes = self._open_lanes()
        built = sum(engine.built for engine in self._engines.values())
        self.details: Mapping[str, str | int] = {
            "version": workshop.trt.__version__,
            "architecture": self._cuda.sm,
            "engines_cached": len(self._engines) - built,
            "engines_built": built,
            "cuda_graphs": sum(lane.num_graphs for lane in lanes),
        }
        for lane in lanes:
            self._idle.put(lane)

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        """As Runtime.run. More than `max_batch` images are several calls of the engine."""
        if self._closed:
            raise InferenceError("the runtime is closed")
        engine = self._engines.get(graph)
        if engine is None:
            raise InferenceError(f"{graph}: not loaded; there are {', '.join(self._engines)}")
        axes = check_inputs(engine.spec, inputs)
        names = [tensor.name for tensor in wanted_outputs(engine.spec, wanted)]
        self._check_ids(engine, inputs)
        num_images = axes["N"]
        with self._lane() as lane:
            parts = [
                lane.run(graph, rows, {**axes, "N": bucket(len(next(iter(rows.values()))), engine.max_batch)}, names)
                for rows in _parts(inputs, num_images, engine.max_batch)
            ]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Waits for the calls that are running; those that wait for a lane get InferenceError."""
        if self._closed:
            return
        self._closed = True
        self._cuda.use()
        for _ in range(LANES):
            lane = self._idle.get()
            assert lane is not None
            lane.close()
        self._idle.put(None)
        self._engines = {}

    @contextlib.contextmanager
    def _lane(self) -> Iterator[Lane]:
        """A lane for this thread, which waits if none is idle."""
        lane = self._idle.get()
        if lane is None:
            self._idle.put(None)  # for the next one who waits
            raise InferenceError("the runtime is closed")
        try:
            self._cuda.use()
            yield lane
        finally:
            self._idle.put(lane)

    def _open_lanes(self) -> list[Lane]:
        strategy = self._workshop.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with contextlib.ExitStack() as opened:
            lanes = []
            for _ in range(LANES):
                try:
                    lane = Lane(self._cuda, self._engines, self._workshop.logger, strategy)
                    opened.callback(lane.close)
                    self._warm_up(lane)
                except OutOfMemory as e:
                    smaller = f"python -m export.tensorrt {self._workshop.bundle.path} --max-batch N"
                    raise RuntimeUnavailable(
                        f"{self.device} has no room for batches of {self.max_batch} images: {e}; "
                        f"end what else runs there, or build smaller engines: {smaller}"
                    ) from e
                except InferenceError as e:
                    raise RuntimeUnavailable(f"TensorRT does not run on {self.device}: {e}") from e
                lanes.append(lane)
            opened.pop_all()
        return lanes

    def _warm_up(self, lane: Lane) -> None:
        """Every batch with the patches it has most often, so that no request waits for its CUDA graph."""
        for graph, engine in self._engines.items():
            usual = {name: span.best for name, span in engine.profiles[0].axes.items()}
            for size in buckets(engine.max_batch):
                axes = {**usual, "N": size}
                zeros = _zeros(engine, axes)
                for _ in range(_CALLS_UNTIL_READY):
                    lane.run(graph, zeros, axes, ())

    def _check_ids(self, engine: Engine, inputs: Mapping[str, NDArray[Any]]) -> None:
        """An id that is out of range would read memory that belongs to something else: no kernel checks it."""
        for tensor in engine.spec.inputs:
            ids = inputs[tensor.name]
            if tensor.dtype == "int64" and (ids.min() < 0 or ids.max() >= self._num_patches):
                raise InferenceError(
                    f"{engine.graph}: {tensor.name} must lie between 0 and {self._num_patches - 1}, "
                    f"got {ids.min()} to {ids.max()}"
                )


def _parts(inputs: Mapping[str, NDArray[Any]], num_images: int, size: int) -> Iterator[dict[str, NDArray[Any]]]:
    for start in range(0, num_images, size):
        yield {name: rows[start : start + size] for name, rows in inputs.items()}


def _zeros(engine: Engine, axes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    return {tensor.name: np.zeros(output_shape(tensor, axes), tensor.dtype) for tensor in engine.spec.inputs}
