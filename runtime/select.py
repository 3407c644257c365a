"""From names to a running engine: `choose` decides, `open_runtime` loads."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bundle.errors import RuntimeUnavailable
from bundle.manifest import GraphSpec, Manifest
from bundle.store import Bundle
from runtime.base import Runtime, ServedPrecision
from runtime.machine import EngineName, Machine, survey

RuntimeName = Literal["auto", "onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt", "fake"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8"]
DEVICE_PATTERN = r"^(auto|cpu|cuda(:\d+)?)$"

log = logging.getLogger(__name__)

_INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "onnxruntime-cuda": "pip uninstall onnxruntime; pip install onnxruntime-gpu",  # both own the same files
    "onnxruntime-tensorrt": "pip uninstall onnxruntime; pip install onnxruntime-gpu, and TensorRT 10",
    "openvino": "pip install -e '.[openvino]'",
    "tensorrt": "pip install -e '.[tensorrt]'",
}
_ON_GPU: frozenset[EngineName] = frozenset({"onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"})


@dataclass(frozen=True)
class Choice:
    """`gpu`: the index of the GPU, None for the CPU."""

    engine: EngineName
    gpu: int | None
    precision: ServedPrecision


def open_runtime(
    bundle: Bundle,
    name: RuntimeName = "auto",
    *,
    device: str = "auto",
    precision: PrecisionName = "auto",
    lanes: int | None = None,
    engine_cache: Path | None = None,
) -> Runtime:
    """Load the bundle's graphs on `device`: "auto", "cpu", "cuda" or "cuda:1".

    `engine_cache`: where TensorRT keeps its engines; None is the user's cache folder. RuntimeUnavailable if the engine
    or the device is not there or refuses a graph, BundleError if the bundle lacks the precision. What is asked for is
    what runs: only "auto" chooses.
    """
    if name == "fake":
        if device.startswith("cuda"):
            raise RuntimeUnavailable("fake computes nothing and has no GPU; use device cpu, or another runtime")
        log.warning("the fake runtime answers with numbers that mean nothing; it is for tests")
        from runtime.fake import FakeRuntime

        return FakeRuntime(bundle, lanes=lanes or 1)
    machine = survey(openvino=name in ("auto", "openvino"))
    choice = choose(bundle.manifest, name, device=device, precision=precision, machine=machine)
    try:
        return _open(bundle, choice, lanes, engine_cache)
    except ImportError as e:
        raise RuntimeUnavailable(_broken(choice.engine, str(e))) from e


def choose(manifest: Manifest, name: RuntimeName, *, device: str, precision: PrecisionName, machine: Machine) -> Choice:
    """The best of what is there, within what is asked for. Raises as `open_runtime`."""
    if name not in get_args(RuntimeName):
        raise RuntimeUnavailable(f"no runtime is called {name!r}; there are {', '.join(get_args(RuntimeName))}")
    if precision in ("bf16", "int8") and device == "auto" and name == "auto":
        device = "cpu"  # which they are for
    gpu = _gpu(name, device, machine)
    encoder = manifest.graphs["encoder"]
    return (
        _on_cpu(encoder, name, precision, machine) if gpu is None else _on_gpu(encoder, name, precision, machine, gpu)
    )


def _gpu(name: RuntimeName, device: str, machine: Machine) -> int | None:
    """The index of the GPU to use. A GPU that is asked for and not there is an error, never the CPU instead."""
    if not re.fullmatch(DEVICE_PATTERN, device):
        raise RuntimeUnavailable(f"no device is called {device!r}; there are auto, cpu, cuda, cuda:0, cuda:1, ...")
    needs_gpu = name in ("tensorrt", "onnxruntime-tensorrt")
    if device == "cpu" and needs_gpu:
        raise RuntimeUnavailable(f"{name} runs on GPUs alone; use device cuda, or another runtime")
    if device.startswith("cuda") and name == "openvino":
        raise RuntimeUnavailable("openvino runs on CPUs here; use device cpu, or runtime onnxruntime or tensorrt")
    if device.startswith("cuda") or needs_gpu:
        index = int(device.partition(":")[2] or 0)
        if index >= machine.gpus:
            there = f"{machine.gpus} NVIDIA GPUs, counted from 0" if machine.gpus else "no NVIDIA GPU"
            raise RuntimeUnavailable(
                f"{device if device != 'auto' else name} was asked for, and CUDA finds {there}; "
                f"check nvidia-smi and CUDA_VISIBLE_DEVICES, or use device cpu"
            )
        return index
    if device == "cpu" or name == "openvino" or not machine.gpus:
        return None
    on_gpu = _ON_GPU if name == "auto" else {"onnxruntime-cuda"}
    if machine.engines & on_gpu:
        return 0
    log.warning(
        "there is a GPU, and %s runs on it, so the CPU computes; %s, or say device cpu",
        "nothing installed here" if name == "auto" else f"not the {name} that is installed",
        _INSTALL["onnxruntime-cuda"],
    )
    return None


def _on_gpu(encoder: GraphSpec, name: RuntimeName, precision: PrecisionName, machine: Machine, gpu: int) -> Choice:
    if precision == "bf16":
        raise RuntimeUnavailable("bf16 is computed on CPUs alone, by openvino; use fp16 on a GPU")
    served: ServedPrecision = ("fp16" if "fp16" in encoder.files else "fp32") if precision == "auto" else precision
    engine: EngineName
    if name == "tensorrt" or name == "onnxruntime-tensorrt":
        engine = name
    else:
        # Of the two, auto takes the one that starts in seconds; TensorRT builds for minutes.
        lone = name == "auto" and "onnxruntime-cuda" not in machine.engines and "tensorrt" in machine.engines
        engine = "tensorrt" if lone else "onnxruntime-cuda"
    if served == "int8" and engine == "onnxruntime-cuda":
        raise RuntimeUnavailable("onnxruntime multiplies no int8 on GPUs; use fp16, or runtime tensorrt")
    if served == "int8" and encoder.quantization == "dynamic":
        raise RuntimeUnavailable(
            f"{engine} does not run this bundle's int8, whose scales are measured at every call; "
            f"use fp16, or export with --int8 static"
        )
    return Choice(_installed(engine, machine), gpu, served)


def _on_cpu(encoder: GraphSpec, name: RuntimeName, precision: PrecisionName, machine: Machine) -> Choice:
    served = _best_on_cpu(encoder, name, machine) if precision == "auto" else precision
    if served == "bf16" and name == "onnxruntime":
        raise RuntimeUnavailable("ONNX Runtime does not compute in bf16 on CPUs; use runtime openvino, or fp32")
    if served == "int8" and name == "openvino" and encoder.quantization == "dynamic":
        raise RuntimeUnavailable(
            "openvino is slow at this bundle's int8, whose scales are measured at every call; "
            "use runtime onnxruntime, or export with --int8 static"
        )
    if served == "fp16" and name == "openvino":
        raise RuntimeUnavailable("openvino gains nothing from fp16 on CPUs; use fp32, bf16 or int8")
    if name == "auto":
        # In fp32 ONNX Runtime is about as fast, and int8 with scales of the call it alone runs.
        static = served == "int8" and encoder.quantization == "static"
        name = "openvino" if served == "bf16" or (static and "openvino" in machine.engines) else "onnxruntime"
    engine = _installed("openvino" if name == "openvino" else "onnxruntime", machine)
    if served == "bf16" and not machine.bf16:
        raise RuntimeUnavailable("this CPU does not multiply in bf16; use fp32 or int8")
    return Choice(engine, None, served)


def _best_on_cpu(encoder: GraphSpec, name: RuntimeName, machine: Machine) -> ServedPrecision:
    """int8 where the export found it faster and as good, else bf16 where OpenVINO multiplies in it, else fp32."""
    if "int8" in encoder.files and (name != "openvino" or encoder.quantization == "static"):
        return "int8"
    return "bf16" if "openvino" in machine.engines and machine.bf16 and name != "onnxruntime" else "fp32"


def _installed(engine: EngineName, machine: Machine) -> EngineName:
    if engine in machine.engines:
        return engine
    reason = machine.broken.get("openvino" if engine == "openvino" else "onnxruntime")
    if reason is not None and engine != "tensorrt":
        raise RuntimeUnavailable(_broken(engine, reason))
    raise RuntimeUnavailable(f"{engine} is not installed; {_INSTALL[engine]}")


def _broken(engine: EngineName, reason: str) -> str:
    return f"{engine} is installed and cannot be imported: {reason}; install it again: {_INSTALL[engine]}"


def _open(bundle: Bundle, choice: Choice, lanes: int | None, engine_cache: Path | None) -> Runtime:
    if choice.engine == "openvino":
        from runtime.openvino import OpenVinoRuntime

        return OpenVinoRuntime(bundle, choice.precision, lanes)
    if choice.precision == "bf16":
        raise AssertionError(f"{choice.engine} cannot compute in bf16; choose() should have said so")
    if choice.gpu is None:
        from runtime.onnx import OnnxRuntime

        return OnnxRuntime(bundle, choice.precision, lanes)
    if choice.engine == "tensorrt":
        from runtime.trt.runtime import TensorRTRuntime

        return TensorRTRuntime(bundle, choice.precision, gpu=choice.gpu, engine_cache=engine_cache)
    from runtime.onnx_cuda import OnnxCudaRuntime

    tensorrt = choice.engine == "onnxruntime-tensorrt"
    return OnnxCudaRuntime(bundle, choice.precision, gpu=choice.gpu, tensorrt=tensorrt, engine_cache=engine_cache)
