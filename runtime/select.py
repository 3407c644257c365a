"""From a name to a running engine."""

from __future__ import annotations

from typing import Literal, get_args

from bundle.errors import RuntimeUnavailable
from bundle.manifest import Precision
from bundle.store import Bundle
from runtime.base import Runtime

RuntimeName = Literal["auto", "onnxruntime", "fake"]


def open_runtime(
    bundle: Bundle, name: RuntimeName = "auto", *, precision: Precision = "fp32", lanes: int | None = None
) -> Runtime:
    """Load the bundle's graphs. "auto" is the best engine for this machine: today ONNX Runtime on the CPU.

    RuntimeUnavailable if the engine is not installed or refuses a graph, BundleError if a graph lacks the precision.
    """
    match name:
        case "fake":
            from runtime.fake import FakeRuntime

            return FakeRuntime(bundle, lanes=lanes or 1)
        case "auto" | "onnxruntime":
            try:
                from runtime.onnx import OnnxRuntime
            except ImportError as e:
                raise RuntimeUnavailable(f"ONNX Runtime is not installed: {e}; pip install onnxruntime") from e
            return OnnxRuntime(bundle, precision, lanes)
    raise RuntimeUnavailable(f"no runtime is called {name!r}; there are {', '.join(get_args(RuntimeName))}")
