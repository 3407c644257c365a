"""Before the first request: does this runtime, on this machine, compute what the export saw? It warms up the graphs."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import RuntimeUnavailable
from bundle.manifest import GOLDEN_FILE, GraphName
from bundle.store import Bundle
from runtime.agreement import cosines
from runtime.base import Runtime

MIN_COSINE_BF16 = 0.999  # the bundle has no figures for bf16: its graphs are fp32, and the device rounds

log = logging.getLogger(__name__)


def prove(bundle: Bundle, runtime: Runtime) -> None:
    """Run every graph on the bundle's golden inputs and hold the outputs against torch's.

    A bundle without golden arrays, and a graph without a tolerance for this precision, are passed over; the fake
    computes nothing, so there is nothing to hold it against. RuntimeUnavailable naming the first output that lies too
    far off, BundleError for golden arrays that are not the graphs'.
    """
    if runtime.name == "fake" or GOLDEN_FILE not in bundle.manifest.files:
        return
    golden = bundle.golden()
    for graph, spec in bundle.manifest.graphs.items():
        limits = _limits(bundle, runtime, graph)
        if limits is None:
            log.warning("%s.%s: the bundle has nothing to prove it by", graph, runtime.precision)
            continue
        outputs = runtime.run(graph, {tensor.name: golden[f"{graph}.in.{tensor.name}"] for tensor in spec.inputs})
        for tensor in spec.outputs:
            fault = _fault(outputs[tensor.name], golden[f"{graph}.out.{tensor.name}"], *limits)
            if fault:
                raise RuntimeUnavailable(
                    f"{runtime.name} on {runtime.device} in {runtime.precision} computes another {graph}.{tensor.name} "
                    f"than the export saw: {fault}; use another runtime or precision"
                )


def _limits(bundle: Bundle, runtime: Runtime, graph: GraphName) -> tuple[float | None, float | None] | None:
    """(greatest difference, least cosine) that are allowed; None where nothing is known."""
    if runtime.precision == "bf16":
        return None, MIN_COSINE_BF16
    parity = bundle.manifest.parity.get(f"{graph}.{bundle.nearest(graph, runtime.precision)}")
    return None if parity is None else (parity.tolerance, parity.min_cosine)


def _fault(actual: NDArray[Any], expected: NDArray[Any], tolerance: float | None, min_cosine: float | None) -> str:
    """What is wrong with `actual`, in words; empty where nothing is. A NaN agrees with nothing, hence `not <=`."""
    worst = float(np.abs(actual - expected).max())
    if tolerance is not None and not worst <= tolerance:
        return f"{worst:.1e} off, {tolerance:.1e} allowed"
    cosine = float(cosines(actual, expected).min())
    if min_cosine is not None and not cosine >= min_cosine:
        return f"cosine {cosine:.6f}, {min_cosine} allowed"
    return ""
