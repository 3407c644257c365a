"""ONNX Runtime on an NVIDIA GPU, by its CUDA provider or its TensorRT provider.

Inputs wait in pinned memory and are bound to the device, outputs are bound to the arrays that the caller gets. A GPU
that cannot be used is an error: ONNX Runtime itself would log a line and compute on the CPU.
"""

from __future__ import annotations

import ctypes
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InferenceError, OutOfMemory, RuntimeUnavailable
from bundle.manifest import GraphName, GraphSpec, ModelSpec, Precision, TensorSpec
from bundle.store import Bundle
from runtime.base import Arrays, ServedPrecision
from runtime.folders import engine_root
from runtime.onnx import check_session, session_options
from runtime.pinned import PinnedBuffer
from runtime.specs import check_inputs, loaded, output_shape, wanted_outputs
from runtime.telemetry import silence

silence()
import onnxruntime as ort  # noqa: E402 - it reads the variable when it is imported

log = logging.getLogger(__name__)

Hold = Callable[[str, NDArray[Any]], NDArray[Any]]
ProviderOptions = dict[str, str]

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
_NEEDS = {
    CUDA: "it needs the libraries of the CUDA version that it was built for (CUDA 13 since 1.31)",
    TENSORRT: "it needs TensorRT 10's libraries beside those of CUDA",
}
_BOTH = "onnxruntime and onnxruntime-gpu own the same files: uninstall both, then install onnxruntime-gpu alone"
_ON_GPU_ALONE = "session.disable_cpu_ep_fallback"
_REFUSAL = "fallback to CPU EP has been explicitly disabled"  # what ONNX Runtime says where that cannot be
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED")  # the arena, C++, CUDA, cuBLAS


class OnnxCudaRuntime:
    """Every graph of the bundle, on GPU number `gpu`. `tensorrt`: by TensorRT, where it has the kernels, else by CUDA.

    `engine_cache`: where the TensorRT provider keeps its engines; None is maeve/engines in the user's cache folder.
    BundleError if the bundle does not come in this precision or a graph is not what the manifest describes,
    RuntimeUnavailable, saying what to install, if ONNX Runtime cannot use the GPU or refuses a graph.
    """

    lanes = 2  # one call's inputs and outputs are copied while the other computes; the GPU computes one at a time
    max_batch = 64
    buckets: tuple[int, ...] = ()

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision,
        *,
        gpu: int,
        tensorrt: bool = False,
        engine_cache: Path | None = None,
    ) -> None:
        self.name = "onnxruntime-tensorrt" if tensorrt else "onnxruntime"
        self.device = f"cuda:{gpu}"
        self.precision: ServedPrecision = precision
        provider = TENSORRT if tensorrt else CUDA
        folder = engine_folder(engine_cache, bundle, precision) if tensorrt else None
        self._graphs: dict[GraphName, BoundGraph] = {}
        for graph, spec in bundle.manifest.graphs.items():
            file = bundle.graph_file(graph, bundle.nearest(graph, precision))
            wanted = [(CUDA, cuda_options(gpu))]
            if folder is not None:
                profile = tensorrt_options(gpu, folder, spec, bundle.manifest.model, self.max_batch)
                wanted.insert(0, (TENSORRT, profile))
            session = load_gpu_session(file, wanted)
            check_session(graph, spec, session, file)
            self._graphs[graph] = BoundGraph(session, spec, "cuda", gpu)
        self._buffers: queue.SimpleQueue[_Buffers] = queue.SimpleQueue()
        for _ in range(self.lanes):
            self._buffers.put(_Buffers(gpu))
        self.details: Mapping[str, str | int] = {"version": ort.__version__, "provider": provider}

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        """As Runtime.run; a closed runtime raises InferenceError, a call that memory does not hold OutOfMemory."""
        bound = loaded(self._graphs, graph)
        buffers = self._buffers.get()
        try:
            return bound.run(graph, inputs, buffers.hold, wanted)
        finally:
            self._buffers.put(buffers)

    def close(self) -> None:
        self._graphs = {}


class _Buffers:
    """Pinned memory for the inputs of one call at a time, an input a buffer."""

    def __init__(self, gpu: int) -> None:
        self._gpu = gpu
        self._by_name: dict[str, PinnedBuffer] = {}

    def hold(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if name not in self._by_name:
            self._by_name[name] = PinnedBuffer(self._gpu)
        return self._by_name[name].hold(array)


class BoundGraph:
    """One graph's session, called by I/O binding: inputs are copied to `device` at once, outputs into arrays of ours.

    `device`, `index`: "cuda" and the GPU's number, or "cpu" and 0.
    """

    def __init__(self, session: ort.InferenceSession, spec: GraphSpec, device: str, index: int) -> None:
        self._session = session
        self._spec = spec
        self._device = device
        self._index = index

    def run(
        self,
        graph: GraphName,
        inputs: Mapping[str, NDArray[Any]],
        hold: Hold,
        wanted: Sequence[str] | None = None,
    ) -> Arrays:
        """`hold`: told an input's name and array, gives contiguous memory with its values until the call is over.

        Raises as Runtime.run.
        """
        axes = check_inputs(self._spec, inputs)
        tensors = wanted_outputs(self._spec, wanted)
        held = {name: hold(name, array) for name, array in inputs.items()}
        outputs = {t.name: np.empty(output_shape(t, axes), t.dtype) for t in tensors}
        try:
            binding = self._session.io_binding()
            for name, array in held.items():
                value = ort.OrtValue.ortvalue_from_numpy(array, self._device, self._index)
                binding.bind_ortvalue_input(name, value)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)
        except Exception as e:  # ONNX Runtime's errors share no base class of their own
            error = OutOfMemory if any(sign in str(e) for sign in _NO_MEMORY) else InferenceError
            raise error(f"{graph}: {e}") from e
        return outputs


def load_gpu_session(file: Path, providers: Sequence[tuple[str, ProviderOptions]]) -> ort.InferenceSession:
    """A session on the first of `providers`, whose nodes without a kernel there go to the next.

    Where none has a kernel the CPU computes, as ONNX Runtime has it, and a warning says so.
    RuntimeUnavailable if that provider does not come up, with ONNX Runtime's reason, or if the graph is refused.
    """
    wanted = providers[0][0]
    if wanted not in ort.get_available_providers():
        raise RuntimeUnavailable(f"the installed onnxruntime has no {wanted}; {_BOTH}")
    _preload()
    refusal = None
    try:
        session = _load(file, providers, on_gpu_alone=True)
    except RuntimeUnavailable as e:
        if _REFUSAL not in str(e):
            raise
        refusal = e.__cause__
        session = _load(file, providers, on_gpu_alone=False)
    session.disable_fallback()  # a failing call is an error too, and never computed again on the CPU
    if session.get_providers()[0] != wanted:
        raise RuntimeUnavailable(f"ONNX Runtime cannot use {wanted}: {_reason(wanted)}; {_NEEDS[wanted]}")
    if refusal is not None:
        log.warning("the CPU computes a part of %s, and every call waits for copies to it: %s", file, refusal)
    return session


def cuda_options(gpu: int) -> ProviderOptions:
    """TF32 would round fp32's factors to 10 bits: whoever wants speed asks for fp16. The arena grows by what is asked
    for, not to the next power of two, as other processes share the GPU.
    """
    return {"device_id": str(gpu), "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}


def tensorrt_options(gpu: int, folder: Path, spec: GraphSpec, model: ModelSpec, max_batch: int) -> ProviderOptions:
    """One profile over N and K, best at a full batch with all patches; precision stays as the graph has it."""
    smallest, largest = {"N": 1, "K": 1}, {"N": max_batch, "K": model.num_patches}
    return {
        "device_id": str(gpu),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": _shapes(spec.inputs, smallest),
        "trt_profile_opt_shapes": _shapes(spec.inputs, largest),
        "trt_profile_max_shapes": _shapes(spec.inputs, largest),
    }


def engine_folder(engine_cache: Path | None, bundle: Bundle, precision: Precision) -> Path:
    """Made where it lacks. ONNX Runtime names the files in it by GPU architecture and version of TensorRT.

    RuntimeUnavailable if it cannot be written, or for a user without a cache folder.
    """
    folder = engine_root(engine_cache) / bundle.manifest.digest / f"onnxruntime-{ort.__version__}-{precision}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RuntimeUnavailable(
            f"cannot write engines to {folder}: {e.strerror}; choose another place for them"
        ) from e
    return folder


def _load(file: Path, providers: Sequence[tuple[str, ProviderOptions]], *, on_gpu_alone: bool) -> ort.InferenceSession:
    """`on_gpu_alone`: no node on the CPU, or RuntimeUnavailable with _REFUSAL in it."""
    options = session_options()
    options.add_session_config_entry(_ON_GPU_ALONE, str(int(on_gpu_alone)))
    try:
        return ort.InferenceSession(str(file), options, providers=list(providers), enable_fallback=0)
    except Exception as e:  # as above
        wanted = providers[0][0]
        raise RuntimeUnavailable(f"ONNX Runtime cannot load {file} with {wanted}: {e}; {_NEEDS[wanted]}") from e


def _shapes(tensors: Sequence[TensorSpec], axes: Mapping[str, int]) -> str:
    """As the provider wants them: "images:1x64x64x3,ids_keep:1x1"."""
    return ",".join(f"{t.name}:{'x'.join(map(str, output_shape(t, axes)))}" for t in tensors)


_preloaded = threading.Event()


def _preload() -> None:
    """CUDA's libraries from the packages of NVIDIA beside ours, once; those of the system are found without."""
    if not _preloaded.is_set() and hasattr(ort, "preload_dlls"):
        ort.preload_dlls(cudnn=False, directory="")
        _preloaded.set()


def _reason(provider: str) -> str:
    """Why it did not come up. ONNX Runtime tells its log alone, so its library is loaded once more to hear it."""
    library = Path(ort.__file__).parent / "capi" / _LIBRARIES[provider]
    try:
        ctypes.CDLL(str(library))
    except OSError as e:
        return str(e)
    return "its log says why"
