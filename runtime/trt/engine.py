"""An engine in the GPU's memory: read from the cache or built, and held against the manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bundle.errors import InferenceError, RuntimeUnavailable
from bundle.manifest import GraphName, GraphSpec, Precision
from bundle.store import Bundle
from runtime.folders import engine_root
from runtime.specs import Tensors, check_graph
from runtime.trt.build import build_engine
from runtime.trt.cache import EngineCache
from runtime.trt.cuda import Cuda
from runtime.trt.libraries import load_cuda, load_tensorrt, make_logger
from runtime.trt.profiles import MAX_BATCH, Axes, Profile, plan_profiles, read_profile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """A graph ready to run. `scratch_bytes`: device memory that a call needs beside inputs, outputs and weights."""

    graph: GraphName
    spec: GraphSpec
    engine: Any  # tensorrt.ICudaEngine
    profiles: tuple[Profile, ...]
    built: bool  # now, where others came from the cache
    kept: bool  # in the cache, for the next start

    @property
    def max_batch(self) -> int:
        return max(profile.axes["N"].greatest for profile in self.profiles)

    @property
    def scratch_bytes(self) -> int:
        return int(self.engine.device_memory_size_v2)

    def profile_for(self, axes: Axes) -> int:
        """The index of the most specific profile that takes these sizes. InferenceError if none does."""
        for number, profile in enumerate(self.profiles):
            if profile.contains(axes):
                return number
        for name, size in axes.items():
            spans = [profile.axes[name] for profile in self.profiles]
            least, greatest = min(span.least for span in spans), max(span.greatest for span in spans)
            if not least <= size <= greatest:
                raise InferenceError(f"{self.graph}: {name} must lie between {least} and {greatest}, got {size}")
        raise InferenceError(f"{self.graph}: the engine was not built for {dict(axes)}")


@dataclass(frozen=True)
class Workshop:
    """What making engines takes: the libraries, a GPU, and the cache of one bundle in one precision."""

    bundle: Bundle
    precision: Precision
    trt: Any
    cuda: Cuda
    cache: EngineCache
    logger: Any
    runtime: Any = field(repr=False)  # tensorrt.Runtime, which must outlive its engines

    def engine(
        self,
        graph: GraphName,
        *,
        max_batch: int | None = None,
        rebuild: bool = False,
        monitor: Callable[[], Any] | None = None,
    ) -> Engine:
        """The graph's engine, from the cache if it is there.

        `max_batch`: the most images per call; None takes what the cached engine was built for. `rebuild`: do not look
        into the cache. `monitor`: makes the tensorrt.IProgressMonitor, should a build be needed. RuntimeUnavailable if
        TensorRT cannot build it, BundleError if it is not what the manifest describes.
        """
        cached = None if rebuild else self._from_cache(graph, max_batch)
        if cached is not None:
            return cached
        with self.cache.lock(graph):
            cached = None if rebuild else self._from_cache(graph, max_batch)  # another process may have built it
            return cached or self._build(graph, max_batch or MAX_BATCH, monitor)

    def _from_cache(self, graph: GraphName, max_batch: int | None) -> Engine | None:
        content = self.cache.read(graph)
        if content is None:
            return None
        engine = self._load(graph, content, built=False, kept=True)
        if engine is None:
            log.warning("TensorRT refuses the cached %s engine: %s; it is built again", graph, self._errors())
        elif max_batch not in (None, engine.max_batch):
            log.info("the cached %s engine takes %d images, not %d", graph, engine.max_batch, max_batch)
            return None
        return engine

    def _build(self, graph: GraphName, max_batch: int, monitor: Callable[[], Any] | None) -> Engine:
        precision = self.bundle.nearest(graph, self.precision)
        spec = self.bundle.manifest.graphs[graph]
        log.info("building the %s engine in %s for %s; this takes minutes, once", graph, precision, self.cuda.sm)
        started = time.monotonic()
        built = build_engine(
            self.trt, self.logger, self.bundle.graph_file(graph, precision), spec,
            plan_profiles(graph, spec, self.bundle.manifest.model.num_patches, max_batch),
            precision=precision, timing=self.cache.read_timing(), monitor=monitor and monitor(),
        )  # fmt: skip
        log.info("built the %s engine in %.0f s", graph, time.monotonic() - started)
        kept = self.cache.write(graph, built.engine)
        if kept:
            self.cache.write_timing(built.timing)
        engine = self._load(graph, built.engine, built=True, kept=kept)
        if engine is None:
            raise RuntimeUnavailable(f"TensorRT does not read the {graph} engine that it built: {self._errors()}")
        return engine

    def _load(self, graph: GraphName, content: bytes, *, built: bool, kept: bool) -> Engine | None:
        engine = self.runtime.deserialize_cuda_engine(content)
        if engine is None:
            return None
        spec = self.bundle.manifest.graphs[graph]
        inputs, outputs = (
            self._tensors(engine, mode) for mode in (self.trt.TensorIOMode.INPUT, self.trt.TensorIOMode.OUTPUT)
        )
        check_graph(f"the {graph} engine", spec, inputs, outputs)
        profiles = tuple(
            read_profile(spec, {t.name: engine.get_tensor_profile_shape(t.name, i) for t in spec.inputs})
            for i in range(engine.num_optimization_profiles)
        )
        return Engine(graph, spec, engine, profiles, built, kept)

    def _tensors(self, engine: Any, mode: Any) -> Tensors:
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return {
            name: (
                np.dtype(self.trt.nptype(engine.get_tensor_dtype(name))).name,
                tuple(None if size < 0 else size for size in engine.get_tensor_shape(name)),
            )
            for name in names
            if engine.get_tensor_mode(name) == mode
        }

    def _errors(self) -> str:
        text: str = self.logger.take_errors()
        return text


def open_workshop(bundle: Bundle, precision: Precision, *, gpu: int, engine_cache: Path | None) -> Workshop:
    """Import the libraries and take the GPU. `engine_cache`: the cache's root; None is the user's cache folder.

    RuntimeUnavailable, saying what to install, where a library or the GPU is missing, for int8 that TensorRT cannot
    run and for a user without a cache folder; BundleError if the bundle does not come in `precision`.
    """
    bundle.graph_file("encoder", precision)
    if precision == "int8" and bundle.manifest.graphs["encoder"].quantization != "static":
        raise RuntimeUnavailable("TensorRT runs int8 with scales in the graph (static) alone; use precision fp16")
    trt = load_tensorrt()
    cuda = Cuda(gpu, load_cuda())
    logger = make_logger(trt)
    try:
        runtime = trt.Runtime(logger)
    except TypeError as e:  # how the bindings say that the library gave them nothing
        raise RuntimeUnavailable(f"TensorRT does not start: {logger.take_errors()}") from e
    cache = EngineCache(
        engine_root(engine_cache),
        digest=bundle.manifest.digest, sm=cuda.sm, version=trt.__version__, precision=precision,
    )  # fmt: skip
    return Workshop(bundle, precision, trt, cuda, cache, logger, runtime)
