"""What this machine can run: its GPUs, and the engines that are installed. Asked once, when a runtime is opened."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from runtime.telemetry import silence

EngineName = Literal["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "tensorrt"]
_CUDA_SUCCESS = 0


@dataclass(frozen=True)
class Machine:
    """`gpus`: NVIDIA GPUs that CUDA would use. `bf16`: whether OpenVINO multiplies in bf16 on this CPU. `broken`: why
    what is installed cannot be imported.
    """

    gpus: int
    engines: frozenset[EngineName]
    bf16: bool
    broken: Mapping[EngineName, str] = field(default_factory=dict)


def survey(*, openvino: bool = True) -> Machine:
    """Loads what is installed, ONNX Runtime and OpenVINO, to ask what it was built for.

    `openvino`: whether it may be chosen at all; if not, the 40 MB of its library stay on the disk.
    """
    engines: set[EngineName] = set()
    broken: dict[EngineName, str] = {}
    silence()
    if find_spec("onnxruntime"):
        try:
            engines.update(_onnxruntime_engines())
        except (ImportError, OSError) as e:
            broken["onnxruntime"] = str(e)
    if _all_installed("tensorrt", "cuda.bindings"):
        engines.add("tensorrt")
    bf16 = False
    if openvino and find_spec("openvino"):
        try:
            bf16 = _openvino_has_bf16()
        except (ImportError, OSError, RuntimeError) as e:  # the last, where it finds no plugin for the CPU
            broken["openvino"] = str(e)
        else:
            engines.add("openvino")
    return Machine(count_gpus(), frozenset(engines), bf16, broken)


def load_driver() -> Any:
    """CUDA's driver library, which comes with NVIDIA's driver; None where there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None


def count_gpus() -> int:
    """By CUDA's driver, which honours CUDA_VISIBLE_DEVICES; 0 where there is none."""
    driver = load_driver()
    count = ctypes.c_int(0)
    if (
        driver is None
        or driver.cuInit(0) != _CUDA_SUCCESS
        or driver.cuDeviceGetCount(ctypes.byref(count)) != _CUDA_SUCCESS
    ):
        return 0
    return count.value


def _onnxruntime_engines() -> Iterator[EngineName]:
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    yield "onnxruntime"
    if "CUDAExecutionProvider" in providers:
        yield "onnxruntime-cuda"
    if "TensorrtExecutionProvider" in providers:
        yield "onnxruntime-tensorrt"


def _openvino_has_bf16() -> bool:
    import openvino

    return multiplies_in_bf16(openvino.Core())


def multiplies_in_bf16(core: Any) -> bool:
    """As an openvino.Core says, which knows the CPU's instructions that it has kernels for."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _all_installed(*modules: str) -> bool:
    try:
        return all(find_spec(module) for module in modules)
    except ModuleNotFoundError:  # find_spec imports the parents of a dotted name
        return False
