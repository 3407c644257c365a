"""What this machine can run: its GPUs, and the engines that are installed. Asked once, when a runtime is opened."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from runtime.telemetry import silence

EngineName = Literal["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "tensorrt"]
_CUDA_SUCCESS = 0


@dataclass(frozen=True)
class Machine:
    """`gpus`: NVIDIA GPUs that CUDA would use. `bf16`: whether OpenVINO multiplies in bf16 on this CPU."""

    gpus: int
    engines: frozenset[EngineName]
    bf16: bool


def survey() -> Machine:
    """Loads no engine that is not installed, and ONNX Runtime and OpenVINO only to ask what they were built for."""
    engines: set[EngineName] = set()
    if find_spec("onnxruntime"):
        engines.update(_onnxruntime_engines())
    if _all_installed("tensorrt", "cuda.bindings"):
        engines.add("tensorrt")
    bf16 = False
    if find_spec("openvino"):
        engines.add("openvino")
        bf16 = _openvino_has_bf16()
    return Machine(count_gpus(), frozenset(engines), bf16)


def count_gpus() -> int:
    """By CUDA's own driver library, which honours CUDA_VISIBLE_DEVICES; 0 where there is none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != _CUDA_SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != _CUDA_SUCCESS:
        return 0
    return count.value


def _onnxruntime_engines() -> Iterator[EngineName]:
    """An onnxruntime that cannot be imported counts as not installed; opening it says why."""
    silence()
    try:
        import onnxruntime
    except ImportError:
        return
    providers = onnxruntime.get_available_providers()
    yield "onnxruntime"
    if "CUDAExecutionProvider" in providers:
        yield "onnxruntime-cuda"
    if "TensorrtExecutionProvider" in providers:
        yield "onnxruntime-tensorrt"


def _openvino_has_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _all_installed(*modules: str) -> bool:
    try:
        return all(find_spec(module) for module in modules)
    except ModuleNotFoundError:  # find_spec imports the parents of a dotted name
        return False
