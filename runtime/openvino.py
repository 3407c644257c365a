"""OpenVINO on the CPU: the fp32 graph in fp32 or bf16, and int8 graphs with the rest of their sums in bf16.

As ONNX Runtime does, it runs as many calls at once as there are cores, each on one thread. OpenVINO calls that streams:
threads of its own, which share the weights. The caller's thread waits meanwhile.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bundle.errors import InferenceError, OutOfMemory, RuntimeUnavailable
from bundle.manifest import GraphName, Precision
from bundle.store import Bundle
from runtime.base import Arrays, ServedPrecision
from runtime.cores import lanes_on_cpu
from runtime.machine import multiplies_in_bf16
from runtime.specs import Tensors, check_graph, check_inputs, loaded, wanted_outputs
from runtime.telemetry import silence

silence()
import openvino as ov  # noqa: E402 - it would report its use while it is imported

_NO_MEMORY = ("bad_alloc", "allocate", "ut of memory")  # C++'s word, and those of oneDNN and of OpenVINO's tensors


class OpenVinoRuntime:
    """Every graph of the bundle, compiled. `lanes`: calls at once; None takes every usable core.

    bf16 computes the fp32 graphs rounded; int8 wants graphs of that precision. BundleError if the bundle lacks them or
    if one is not what the manifest describes, RuntimeUnavailable if OpenVINO cannot compile one, or if this CPU does
    not compute in `precision`.
    """

    name = "openvino"
    device = "cpu"
    max_batch = 4  # about a tenth more images per second than one by one for small networks; more gain no more
    buckets: tuple[int, ...] = ()

    def __init__(self, bundle: Bundle, precision: ServedPrecision = "fp32", lanes: int | None = None) -> None:
        if precision == "fp16":
            raise RuntimeUnavailable("OpenVINO gains nothing from fp16 on CPUs; use fp32, bf16 or int8")
        core = ov.Core()
        has_bf16 = multiplies_in_bf16(core)
        if precision == "bf16" and not has_bf16:
            raise RuntimeUnavailable("this CPU does not multiply in bf16; use fp32 or int8")
        self.precision: ServedPrecision = precision
        self.lanes = lanes_on_cpu(lanes)
        hint = "bf16" if has_bf16 and precision != "fp32" else "f32"
        self.details: Mapping[str, str | int] = {
            "version": ov.__version__.partition("-")[0],
            "threads_per_lane": 1,
            "inference_precision": hint,
        }
        variant: Precision = "int8" if precision == "int8" else "fp32"
        self._specs = bundle.manifest.graphs
        self._requests: dict[GraphName, queue.LifoQueue[ov.InferRequest]] = {}
        for graph, spec in self._specs.items():
            nearest = bundle.nearest(graph, variant)
            file = bundle.graph_file(graph, nearest)
            # A graph that the export left in fp32 beside int8 ones is computed in fp32, as the self-check expects.
            compiled = _compile(core, file, _properties(hint if nearest == variant else "f32", self.lanes))
            check_graph(f"{graph} ({file})", spec, _tensors(compiled.inputs), _tensors(compiled.outputs))
            self._requests[graph] = queue.LifoQueue()
            for _ in range(self.lanes):
                self._requests[graph].put(compiled.create_infer_request())

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        """As Runtime.run; a closed runtime raises InferenceError, a call that memory does not hold OutOfMemory."""
        requests = loaded(self._requests, graph)
        spec = self._specs[graph]
        check_inputs(spec, inputs)
        names = [tensor.name for tensor in wanted_outputs(spec, wanted)]
        request = requests.get()
        try:
            # Copied in and out. Inputs that OpenVINO only borrows are read again by later calls, when they are gone.
            request.infer(dict(inputs), share_inputs=False, share_outputs=True)
            return {name: request.get_tensor(name).data.copy() for name in names}
        except (RuntimeError, MemoryError) as e:  # all that its binding raises
            no_memory = isinstance(e, MemoryError) or any(sign in str(e) for sign in _NO_MEMORY)
            error = OutOfMemory if no_memory else InferenceError
            raise error(f"{graph}: {_one_line(e)}") from e
        finally:
            requests.put(request)

    def close(self) -> None:
        self._requests = {}


def _properties(hint: str, lanes: int) -> dict[str, str]:
    """One thread per stream. Threads are not bound to cores, which other processes and containers share; logical
    cores count as cores, since `usable_cores` counts them.
    """
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "NUM_STREAMS": str(lanes),
        "INFERENCE_NUM_THREADS": str(lanes),
        "ENABLE_CPU_PINNING": "NO",
        "ENABLE_HYPER_THREADING": "YES",
    }


def _compile(core: ov.Core, file: Path, properties: Mapping[str, str]) -> ov.CompiledModel:
    try:
        return core.compile_model(file, "CPU", properties)
    except RuntimeError as e:  # all that its binding raises
        raise RuntimeUnavailable(f"OpenVINO cannot load {file}: {_one_line(e)}") from e


def _tensors(ports: list[ov.ConstOutput]) -> Tensors:
    return {
        port.any_name: (
            port.element_type.to_dtype().name,
            tuple(None if axis.is_dynamic else axis.get_length() for axis in port.partial_shape),
        )
        for port in ports
    }


def _one_line(error: BaseException) -> str:
    """What OpenVINO says, less the lines that say where in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith("Exception from")) or type(error).__name__
