"""Which variant of an encoder is the fastest on this machine's CPU, on the engines that the service would use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.errors import RuntimeUnavailable
from bundle.masking import all_ids
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.machine import survey
from runtime.select import RuntimeName, open_runtime

_MIN_ROUNDS, _MAX_ROUNDS, _BUDGET_S = 3, 30, 4.0
_CPU_ENGINES: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")


class Timing(NamedTuple):
    """`ms`: the best of several calls, on one thread."""

    ms: float
    engine: RuntimeName


def fastest(drafts: Mapping[str, Bundle], images: NDArray[np.uint8]) -> dict[str, Timing]:
    """By draft, the best time of all engines that run it. Every draft is run once a round, in turns, so that whatever
    else the machine does meets all alike.

    drafts: bundles of an encoder, served in int8 where they have it, else in fp32. images: u8 [N, H, W, C].
    """
    best: dict[tuple[str, RuntimeName], float] = {}
    with ExitStack() as stack:
        calls = _open_all(drafts, images, stack)
        for call in calls.values():
            call()  # the first one allocates
        begun = time.perf_counter()
        for i in range(_MAX_ROUNDS):
            for key, call in calls.items():
                start = time.perf_counter()
                call()
                best[key] = min(best.get(key, float("inf")), 1000 * (time.perf_counter() - start))
            if i + 1 >= _MIN_ROUNDS and time.perf_counter() - begun > _BUDGET_S:
                break
    return {draft: min(Timing(ms, engine) for (name, engine), ms in best.items() if name == draft) for draft in drafts}


def _open_all(
    drafts: Mapping[str, Bundle], images: NDArray[np.uint8], stack: ExitStack
) -> dict[tuple[str, RuntimeName], Callable[[], object]]:
    installed = survey().engines
    calls: dict[tuple[str, RuntimeName], Callable[[], object]] = {}
    for name, bundle in drafts.items():
        spec, length = bundle.manifest.graphs["encoder"], bundle.manifest.model.num_patches
        inputs: Arrays = {"images": images, "ids_keep": np.ascontiguousarray(all_ids(len(images), length))}
        for engine in _CPU_ENGINES:
            # Scales that are measured at every call are fast in ONNX Runtime alone.
            if engine not in installed or (spec.quantization == "dynamic" and engine != "onnxruntime"):
                continue
            try:
                runtime = open_runtime(
                    bundle, engine, device="cpu", precision="int8" if spec.quantization else "fp32", lanes=1
                )
            except RuntimeUnavailable:
                if engine == "onnxruntime":  # which the export itself needs
                    raise
                continue
            stack.enter_context(closing(runtime))
            calls[name, engine] = partial(runtime.run, "encoder", inputs)
    return calls
