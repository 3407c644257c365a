"""Before the first request: does this runtime, on this machine, compute what the export saw? It warms up the graphs."""

from __future__ import annotations

import logging

import numpy as np

from bundle.errors import RuntimeUnavailable
from bundle.manifest import GOLDEN_FILE
from bundle.store import Bundle
from runtime import Runtime

log = logging.getLogger(__name__)


def prove(bundle: Bundle, runtime: Runtime) -> None:
    """Run every graph on the bundle's golden inputs and hold the outputs against torch's.

    A graph without golden arrays or without a tolerance for this precision is passed over; the fake computes nothing,
    so there is nothing to hold it against. RuntimeUnavailable naming the first output that lies too far off.
    """
    if runtime.name == "fake" or GOLDEN_FILE not in bundle.manifest.files:
        return
    golden = bundle.golden()
    for graph, spec in bundle.manifest.graphs.items():
        parity = bundle.manifest.parity.get(f"{graph}.{runtime.precision}")
        inputs = {tensor.name: golden.get(f"{graph}.in.{tensor.name}") for tensor in spec.inputs}
        given = {name: array for name, array in inputs.items() if array is not None}
        if parity is None or len(given) < len(inputs):
            log.warning("%s.%s: the bundle has nothing to prove it by", graph, runtime.precision)
            continue
        outputs = runtime.run(graph, given)
        for tensor in spec.outputs:
            worst = float(np.abs(outputs[tensor.name] - golden[f"{graph}.out.{tensor.name}"]).max())
            if not worst <= parity.tolerance:  # so, and not `>`: a NaN is no agreement
                raise RuntimeUnavailable(
                    f"{runtime.name} on {runtime.device} computes another {graph}.{tensor.name} than the export saw: "
                    f"{worst:.1e} off, {parity.tolerance:.1e} allowed; use another runtime or precision"
                )
