"""ONNX Runtime on the CPU.

One session per graph, one thread per call, as many calls at once as there are cores: on CPUs, lanes of single threads
beat one session with more threads. ONNX Runtime lets threads share a session and its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InferenceError, OutOfMemory, RuntimeUnavailable
from bundle.manifest import GraphName, GraphSpec, Precision
from bundle.store import Bundle
from runtime.base import Arrays, ServedPrecision
from runtime.cores import lanes_on_cpu
from runtime.specs import Tensors, check_graph, check_inputs, loaded, wanted_outputs
from runtime.telemetry import silence

silence()
import onnxruntime as ort  # noqa: E402 - it reads the variable when it is imported

_PROVIDER = "CPUExecutionProvider"
_SEVERITY_ERROR = 3  # ONNX Runtime's scale: 2 would print its warnings about the machine on every start
_DTYPES = {"float": "float32", "double": "float64"}  # where ONNX Runtime's names are not NumPy's
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc")  # its arena's words, and C++'s own


class OnnxRuntime:
    """Every graph of the bundle, loaded. `lanes`: calls at once; None takes every usable core.

    BundleError if the bundle does not come in this precision or if a graph is not what the manifest describes,
    RuntimeUnavailable if ONNX Runtime cannot load one.
    """

    name = "onnxruntime"
    device = "cpu"
    max_batch = 4  # 6 to 8 % faster per image than one by one for small networks; more gain no more and answer later
    buckets: tuple[int, ...] = ()

    def __init__(self, bundle: Bundle, precision: Precision = "fp32", lanes: int | None = None) -> None:
        self.precision: ServedPrecision = precision
        self.lanes = lanes_on_cpu(lanes)
        self.details: Mapping[str, str | int] = {
            "version": ort.__version__,
            "provider": _PROVIDER,
            "threads_per_lane": 1,
        }
        self._specs = bundle.manifest.graphs
        # Dynamic int8 takes one scale for all that a call holds: an image's answer would depend on its neighbours.
        self._alone = {
            graph
            for graph, spec in self._specs.items()
            if spec.quantization == "dynamic" and bundle.nearest(graph, precision) == "int8"
        }
        if self._alone:
            self.max_batch = 1
        self._sessions = {
            graph: _session(graph, spec, bundle.graph_file(graph, bundle.nearest(graph, precision)))
            for graph, spec in self._specs.items()
        }

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        """As Runtime.run; a closed runtime raises InferenceError, a call that memory does not hold OutOfMemory."""
        session = loaded(self._sessions, graph)
        spec = self._specs[graph]
        check_inputs(spec, inputs)
        names = [tensor.name for tensor in wanted_outputs(spec, wanted)]
        try:
            if graph in self._alone:
                outputs = image_by_image(session, names, inputs)
            else:
                outputs = session.run(names, dict(inputs))
        except Exception as e:  # ONNX Runtime's errors share no base class of their own
            error = OutOfMemory if any(sign in str(e) for sign in _NO_MEMORY) else InferenceError
            raise error(f"{graph}: {e}") from e
        return dict(zip(names, outputs, strict=True))

    def close(self) -> None:
        self._sessions = {}


def image_by_image(
    session: ort.InferenceSession, names: list[str], inputs: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """The outputs called `names`, each image's computed in a call of its own."""
    num_images = len(next(iter(inputs.values())))
    calls = [session.run(names, {name: rows[i : i + 1] for name, rows in inputs.items()}) for i in range(num_images)]
    return [np.concatenate(parts) for parts in zip(*calls, strict=True)]


def load_session(model: Path | bytes) -> ort.InferenceSession:
    """A session, from a file or from its content, whose calls use the caller's thread alone.

    RuntimeUnavailable if ONNX Runtime refuses the graph.
    """
    try:
        return ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), session_options(), providers=[_PROVIDER]
        )
    except Exception as e:  # as above
        name = "the graph" if isinstance(model, bytes) else str(model)
        raise RuntimeUnavailable(f"ONNX Runtime cannot load {name}: {e}") from e


def session_options() -> ort.SessionOptions:
    """Calls on the caller's thread, one after the other, and silence about the machine."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SEVERITY_ERROR
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def check_session(graph: GraphName, spec: GraphSpec, session: ort.InferenceSession, file: Path) -> None:
    """BundleError if what was loaded from `file` is not the graph that the manifest describes."""
    check_graph(f"{graph} ({file})", spec, _tensors(session.get_inputs()), _tensors(session.get_outputs()))


def _session(graph: GraphName, spec: GraphSpec, file: Path) -> ort.InferenceSession:
    session = load_session(file)
    check_session(graph, spec, session, file)
    return session


def _tensors(nodes: Sequence[ort.NodeArg]) -> Tensors:
    """Types read "tensor(float)"."""
    dtypes = {node.name: node.type.removeprefix("tensor(").removesuffix(")") for node in nodes}
    return {node.name: (_DTYPES.get(dtypes[node.name], dtypes[node.name]), tuple(node.shape)) for node in nodes}
