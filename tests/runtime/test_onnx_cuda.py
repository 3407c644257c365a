"""The GPU's path as far as a CPU can walk it: real I/O binding on the CPU's provider, and an onnxruntime that fails.

tests/gpu/test_runtime.py has what needs a GPU.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from bundle.errors import BundleError, InferenceError, OutOfMemory, RuntimeUnavailable
from bundle.masking import keep_ids
from bundle.store import Bundle
from runtime import onnx_cuda
from runtime.base import Arrays
from runtime.onnx import OnnxRuntime, load_session
from runtime.onnx_cuda import CUDA, TENSORRT, BoundGraph, OnnxCudaRuntime, cuda_options, engine_folder, tensorrt_options
from tests.runtime.conftest import images

ON_GPU_ALONE = "session.disable_cpu_ep_fallback"
REFUSAL = (
    "This session contains graph nodes that are assigned to the default CPU EP, "
    "but fallback to CPU EP has been explicitly disabled by the user."
)


class CpuInPlaceOfGpu:
    """onnxruntime, where every provider is the CPU's but answers to the name that was asked for.

    `comes_up`: whether it does; ONNX Runtime itself goes on with the CPU where it does not. `complete`: whether it has
    kernels for all nodes. Where the CPU would compute a node, and must not, ONNX Runtime refuses in these words.
    """

    def __init__(self, *providers: str, comes_up: bool = True, complete: bool = True) -> None:
        self._providers = providers
        self._comes_up, self._on_gpu_alone = comes_up, comes_up and complete
        self.asked: list[list[tuple[str, dict[str, str]]]] = []
        self.fallback: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [*self._providers, "CPUExecutionProvider"]

    def preload_dlls(self, **_: object) -> None:
        """CUDA's libraries are not here."""

    def InferenceSession(self, path: str, options: Any, *, providers: Any, enable_fallback: int) -> Any:  # noqa: N802
        if options.get_session_config_entry(ON_GPU_ALONE) == "1" and not self._on_gpu_alone:
            raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {REFUSAL}")
        options.add_session_config_entry(ON_GPU_ALONE, "0")  # which the CPU's provider itself cannot be asked for
        self.asked.append(providers)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        if self._comes_up:
            session.get_providers = lambda: [name for name, _ in providers]
        session.disable_fallback = lambda: self.fallback.append(bool(enable_fallback))
        return session


class OnCpu(BoundGraph):
    """As on a GPU, but its device is the CPU."""

    def __init__(self, session: Any, spec: Any, device: str, index: int) -> None:
        assert (device, index) == ("cuda", 1)
        super().__init__(session, spec, "cpu", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> CpuInPlaceOfGpu:
    fake = CpuInPlaceOfGpu(TENSORRT, CUDA)
    monkeypatch.setattr(onnx_cuda, "ort", fake)
    monkeypatch.setattr(onnx_cuda, "BoundGraph", OnCpu)
    return fake


def hold(_: str, array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array)


def test_bound_calls_give_what_plain_ones_give(tiny_bundle: Bundle) -> None:
    golden = tiny_bundle.golden()
    for graph, spec in tiny_bundle.manifest.graphs.items():
        session = load_session(tiny_bundle.graph_file(graph))
        inputs = {t.name: golden[f"{graph}.in.{t.name}"] for t in spec.inputs}
        outputs = BoundGraph(session, spec, "cpu", 0).run(graph, inputs, hold)
        plain = session.run([t.name for t in spec.outputs], inputs)
        for value, expected in zip(outputs.values(), plain, strict=True):
            assert np.array_equal(value, expected)


def test_a_runtime_on_the_gpu(tiny_bundle: Bundle, gpu: CpuInPlaceOfGpu) -> None:
    runtime = OnnxCudaRuntime(tiny_bundle, "fp32", gpu=1)
    assert (runtime.name, runtime.device, runtime.precision) == ("onnxruntime", "cuda:1", "fp32")
    assert runtime.details == {"version": onnxruntime.__version__, "provider": CUDA}
    assert gpu.asked == [[(CUDA, cuda_options(1))]] * 3
    assert gpu.fallback == [False] * 3
    batch = images(3)
    plain = OnnxRuntime(tiny_bundle).run("encoder", batch)
    for name, value in runtime.run("encoder", batch).items():
        assert np.array_equal(value, plain[name])
    runtime.close()
    runtime.close()
    with pytest.raises(InferenceError, match="closed"):
        runtime.run("encoder", batch)


def test_lanes_never_mix_their_answers(tiny_bundle: Bundle, gpu: CpuInPlaceOfGpu) -> None:
    """More callers than lanes share the pinned buffers."""
    del gpu

    def inputs(seed: int) -> Arrays:
        n, k = 1 + seed % 3, (16, 8, 4)[seed % 3]
        return {**images(n, seed), "ids_keep": np.broadcast_to(keep_ids(16, k / 16), (n, k))}

    runtime = OnnxCudaRuntime(tiny_bundle, "fp32", gpu=1)
    plain = OnnxRuntime(tiny_bundle)
    alone = [plain.run("encoder", inputs(seed)) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        futures = [(seed % 12, pool.submit(runtime.run, "encoder", inputs(seed % 12))) for seed in range(240)]
    for seed, future in futures:
        for name, value in future.result().items():
            assert np.array_equal(value, alone[seed][name])


def test_a_failing_call_says_so_and_the_next_one_works(tiny_bundle: Bundle, gpu: CpuInPlaceOfGpu) -> None:
    del gpu
    runtime = OnnxCudaRuntime(tiny_bundle, "fp32", gpu=1)
    for _ in range(runtime.lanes + 1):
        with pytest.raises(InferenceError, match=r"encoder: .*out of"):
            runtime.run("encoder", {**images(1), "ids_keep": np.full((1, 16), 999)})
    with pytest.raises(ValueError, match="ids_keep must be int64"):
        runtime.run("encoder", {**images(2), "ids_keep": np.zeros((2, 4), np.int32)})
    assert runtime.run("encoder", images(1))["cls"].shape == (1, 32)


@pytest.mark.parametrize(
    "said",
    [
        "Failed to allocate memory for requested buffer of size 99",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_a_full_gpu_is_out_of_memory(tiny_bundle: Bundle, said: str) -> None:
    class Full:
        def io_binding(self) -> None:
            raise RuntimeError(said)

    with pytest.raises(OutOfMemory, match=said):
        BoundGraph(Full(), tiny_bundle.manifest.graphs["encoder"], "cpu", 0).run("encoder", images(1), hold)


def test_an_onnxruntime_without_cuda_says_what_to_install(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_cuda, "ort", CpuInPlaceOfGpu())
    message = f"no {CUDA}; onnxruntime and onnxruntime-gpu own the same files: uninstall both"
    with pytest.raises(RuntimeUnavailable, match=message):
        OnnxCudaRuntime(tiny_bundle, "fp32", gpu=0)


@pytest.mark.parametrize(("tensorrt", "needs"), [(False, "CUDA 13"), (True, "TensorRT 10")])
def test_a_provider_that_does_not_come_up_is_an_error_with_its_reason(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tensorrt: bool, needs: str
) -> None:
    """As ONNX Runtime behaves without CUDA's libraries: it logs a line, and the session is on the CPU."""
    monkeypatch.setattr(onnx_cuda, "ort", CpuInPlaceOfGpu(TENSORRT, CUDA, comes_up=False))

    def load(name: str) -> None:
        raise OSError(f"libcublasLt.so.13: cannot open shared object file (for {Path(name).name})")

    monkeypatch.setattr(ctypes, "CDLL", load)
    provider = TENSORRT if tensorrt else CUDA
    library = f"libonnxruntime_providers_{'tensorrt' if tensorrt else 'cuda'}.so"
    message = rf"cannot use {provider}: libcublasLt\.so\.13: .*{library}.*{needs}"
    with pytest.raises(RuntimeUnavailable, match=message):
        OnnxCudaRuntime(tiny_bundle, "fp32", gpu=0, tensorrt=tensorrt, engine_cache=tmp_path)


def test_a_provider_that_refuses_the_graph_is_an_error(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(CpuInPlaceOfGpu):
        def InferenceSession(self, *_: Any, **__: Any) -> Any:  # noqa: N802
            raise RuntimeError("CUDA failure 101: invalid device ordinal")

    monkeypatch.setattr(onnx_cuda, "ort", Refusing(CUDA))
    with pytest.raises(RuntimeUnavailable, match=rf"cannot load .*encoder\.onnx with {CUDA}: .*invalid device ordinal"):
        OnnxCudaRuntime(tiny_bundle, "fp32", gpu=7)


def test_the_refusal_is_in_onnx_runtimes_own_words(tiny_bundle: Bundle) -> None:
    """Without a provider every node is the CPU's, which ONNX Runtime adds by itself."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(ON_GPU_ALONE, "1")
    options.log_severity_level = 4
    with pytest.raises(Exception, match=REFUSAL):
        onnxruntime.InferenceSession(str(tiny_bundle.graph_file("encoder")), options, providers=[])


def test_nodes_that_the_cpu_computes_are_told_of(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = CpuInPlaceOfGpu(CUDA, complete=False)
    monkeypatch.setattr(onnx_cuda, "ort", fake)
    monkeypatch.setattr(onnx_cuda, "BoundGraph", OnCpu)
    runtime = OnnxCudaRuntime(tiny_bundle, "fp32", gpu=1)
    assert runtime.run("encoder", images(1))["cls"].shape == (1, 32)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == len(fake.asked) == 3
    for graph, warning in zip(tiny_bundle.manifest.graphs, warnings, strict=True):
        assert str(tiny_bundle.graph_file(graph)) in warning
        assert REFUSAL in warning


def test_a_gpu_that_computes_all_is_not_warned_of(
    tiny_bundle: Bundle, gpu: CpuInPlaceOfGpu, caplog: pytest.LogCaptureFixture
) -> None:
    OnnxCudaRuntime(tiny_bundle, "fp32", gpu=1)
    assert len(gpu.asked) == 3
    assert not caplog.records


def test_a_precision_that_the_bundle_lacks_is_refused(tiny_bundle: Bundle, gpu: CpuInPlaceOfGpu) -> None:
    del gpu
    with pytest.raises(BundleError, match="no fp16 encoder graph"):
        OnnxCudaRuntime(tiny_bundle, "fp16", gpu=1)


def test_tensorrt_comes_before_cuda_with_a_profile_for_every_graph(
    tiny_bundle: Bundle, gpu: CpuInPlaceOfGpu, tmp_path: Path
) -> None:
    runtime = OnnxCudaRuntime(tiny_bundle, "fp32", gpu=1, tensorrt=True, engine_cache=tmp_path)
    assert runtime.name == "onnxruntime-tensorrt"
    assert runtime.details["provider"] == TENSORRT
    assert [[name for name, _ in asked] for asked in gpu.asked] == [[TENSORRT, CUDA]] * 3
    folder = tmp_path / tiny_bundle.manifest.digest / f"onnxruntime-{onnxruntime.__version__}-fp32"
    assert folder.is_dir()
    by_graph = dict(zip(tiny_bundle.manifest.graphs, gpu.asked, strict=True))
    encoder, decoder = by_graph["encoder"][0][1], by_graph["decoder"][0][1]
    assert encoder["trt_engine_cache_path"] == str(folder)
    assert encoder["trt_profile_min_shapes"] == "images:1x32x32x3,ids_keep:1x1"
    assert encoder["trt_profile_opt_shapes"] == "images:64x32x32x3,ids_keep:64x16"
    assert encoder["trt_profile_max_shapes"] == "images:64x32x32x3,ids_keep:64x16"
    assert decoder["trt_profile_min_shapes"] == "tokens:1x2x32,ids_restore:1x16"
    assert decoder["trt_profile_max_shapes"] == "tokens:64x17x32,ids_restore:64x16"


def test_options_are_text_as_the_providers_want_them(tiny_bundle: Bundle, tmp_path: Path) -> None:
    spec, model = tiny_bundle.manifest.graphs["encoder"], tiny_bundle.manifest.model
    both = cuda_options(2) | tensorrt_options(2, tmp_path, spec, model, 8)
    assert all(isinstance(value, str) for value in both.values())
    assert both["device_id"] == "2"
    assert both["use_tf32"] == "0"


def test_engines_go_to_the_users_cache(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = engine_folder(None, tiny_bundle, "fp16")
    assert folder.is_dir()
    assert folder.parent == tmp_path / "maeve" / "engines" / tiny_bundle.manifest.digest


def test_a_cache_that_cannot_be_written_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeUnavailable, match=r"cannot write engines to .*file.*: Not a directory; choose another"):
        engine_folder(tmp_path / "file", tiny_bundle, "fp16")
