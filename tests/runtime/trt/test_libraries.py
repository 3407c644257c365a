"""What is missing is named, with what to install; CUDA's error codes become exceptions with CUDA's text."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.errors import InferenceError, OutOfMemory, RuntimeUnavailable
from bundle.store import Bundle
from runtime.trt.cuda import Cuda
from runtime.trt.libraries import load_cuda, load_tensorrt, make_logger
from runtime.trt.runtime import TensorRTRuntime
from tests.runtime.trt.fake_cuda import FakeCuda, cudaError_t
from tests.runtime.trt.fake_tensorrt import FakeTensorRT

# Libraries


def modules(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    """Importable modules with these sources, in place of what is installed."""
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))


def test_a_missing_tensorrt_says_what_to_install(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RuntimeUnavailable, match=r"^TensorRT is not installed; pip install -e '\.\[tensorrt\]'$"):
        TensorRTRuntime(tiny_bundle, "fp32", gpu=0, engine_cache=None)


@pytest.mark.parametrize("missing", ["cuda", "cuda.bindings", "cuda.bindings.runtime"])
def test_missing_bindings_say_what_to_install(
    tiny_bundle: Bundle, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    del trt
    monkeypatch.delitem(sys.modules, "cuda.bindings.runtime")
    monkeypatch.setitem(sys.modules, missing, None)
    message = r"^CUDA's Python bindings \(cuda-bindings\) is not installed; pip install -e '\.\[tensorrt\]'$"
    with pytest.raises(RuntimeUnavailable, match=message):
        TensorRTRuntime(tiny_bundle, "fp32", gpu=0, engine_cache=None)


def test_libraries_that_do_not_load_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "libnvonnxparser.so.11: cannot open shared object file: No such file or directory"
    modules(tmp_path, monkeypatch, tensorrt=f"raise ImportError({text!r})")
    with pytest.raises(RuntimeUnavailable, match="TensorRT is installed but does not load: libnvonnxparser"):
        load_tensorrt()


def test_libraries_that_lack_a_part_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules(tmp_path, monkeypatch, tensorrt="import cuda_pathfinder_of_nobody")
    with pytest.raises(RuntimeUnavailable, match="TensorRT lacks a part, cuda_pathfinder_of_nobody; install it anew"):
        load_tensorrt()


def test_tensorrt_10_is_too_old(trt: FakeTensorRT) -> None:
    trt.__version__ = "10.15.1.29"
    with pytest.raises(RuntimeUnavailable, match=r"TensorRT 10\.15\.1\.29 is too old, 11 is needed; pip install"):
        load_tensorrt()


def test_what_is_installed_is_taken(trt: FakeTensorRT, cuda: FakeCuda) -> None:
    assert load_tensorrt() is trt
    assert load_cuda() is cuda


def test_errors_of_tensorrt_are_kept_for_the_exception_and_warnings_are_no_alarm(
    trt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logger, severity = make_logger(trt), trt.ILogger.Severity
    for level in (severity.WARNING, severity.ERROR, severity.INTERNAL_ERROR, severity.INFO):
        message = f"{level.name}\n  text"
        logger.log(level, message)
    assert logger.take_errors() == "ERROR text; INTERNAL_ERROR text"
    assert logger.take_errors() == "TensorRT gave no reason"
    assert [r.levelname for r in caplog.records] == ["INFO", "DEBUG", "DEBUG", "DEBUG"]


# CUDA


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (FakeCuda(driver=0), "there is no NVIDIA driver; install version 580 or newer"),
        (FakeCuda(gpus=0), "there is no GPU 1: CUDA finds 0; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (FakeCuda(gpus=1), "there is no GPU 1: CUDA finds 1; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_missing_gpu_is_named(fake: FakeCuda, message: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"^{message}$"):
        Cuda(1, fake)


def test_an_old_driver_is_named_with_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(driver=12040)
    monkeypatch.setattr(fake, "cudaGetDeviceCount", lambda: (cudaError_t.cudaErrorInsufficientDriver, None))
    with pytest.raises(
        RuntimeUnavailable, match=r"the NVIDIA driver is too old, it knows CUDA 12\.4; install version 580"
    ):
        Cuda(0, fake)


def test_any_other_failure_to_start_has_cudas_text(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(fake, "cudaGetDeviceCount", lambda: (cudaError_t.cudaErrorIllegalAddress, None))
    with pytest.raises(RuntimeUnavailable, match=r"illegal memory access .* \(cudaErrorIllegalAddress\)"):
        Cuda(0, fake)


def test_the_architecture_is_written_as_compilers_do() -> None:
    assert Cuda(0, FakeCuda(sm=(8, 6))).sm == "sm_86"
    assert Cuda(0, FakeCuda(sm=(12, 0))).sm == "sm_120"


def test_what_goes_to_the_gpu_comes_back_once_it_was_waited_for() -> None:
    gpu = Cuda(0, FakeCuda())
    stream, event, address = gpu.make_stream(), gpu.make_event(), gpu.malloc(8)
    source, target = gpu.malloc_pinned(8), gpu.malloc_pinned(8)
    source[:], target[:] = np.arange(8), 0
    gpu.copy_to_device(address, source, stream)
    gpu.copy_to_host(target[:4], address + 4, stream)
    gpu.wait(event, stream)
    assert target.tolist() == [4, 5, 6, 7, 0, 0, 0, 0]


def test_memory_that_lacks_is_told_apart_from_what_else_fails() -> None:
    fake = FakeCuda(memory=2**20)
    gpu = Cuda(0, fake)
    for allocate in (gpu.malloc, gpu.malloc_pinned):
        with pytest.raises(OutOfMemory, match=r"CUDA: out of memory \(cudaErrorMemoryAllocation\)"):
            allocate(2**20 + 1)
    with pytest.raises(InferenceError) as caught:
        gpu.free(12345)
    assert type(caught.value) is InferenceError


def test_a_copy_beyond_a_block_fails_when_it_is_waited_for() -> None:
    gpu = Cuda(0, FakeCuda())
    stream, event, pinned = gpu.make_stream(), gpu.make_event(), gpu.malloc_pinned(16)
    gpu.copy_to_device(gpu.malloc(8), pinned, stream)
    with pytest.raises(InferenceError, match="illegal memory access"):
        gpu.wait(event, stream)


def test_a_capture_runs_nothing_and_a_launch_does() -> None:
    fake = FakeCuda()
    gpu = Cuda(0, fake)
    stream, event, address = gpu.make_stream(), gpu.make_event(), gpu.malloc(4)
    source, target = gpu.malloc_pinned(4), gpu.malloc_pinned(4)
    target[:] = 0

    def queue() -> None:
        gpu.copy_to_device(address, source, stream)
        gpu.copy_to_host(target, address, stream)

    graph = gpu.capture(stream, queue)
    source[:] = 1
    gpu.wait(event, stream)
    assert target.tolist() == [0] * 4
    for value in (1, 2):
        source[:] = value
        gpu.launch(graph, stream)
        gpu.wait(event, stream)
        assert target.tolist() == [value] * 4
    gpu.destroy_graph(graph)
    assert not fake.graphs


@pytest.mark.parametrize("error", [InferenceError("no"), KeyboardInterrupt()])
def test_a_capture_that_fails_leaves_the_stream_as_it_was(error: BaseException) -> None:
    fake = FakeCuda()
    gpu = Cuda(0, fake)
    stream: Any = gpu.make_stream()

    def queue() -> None:
        raise error

    with pytest.raises(type(error)):
        gpu.capture(stream, queue)
    with pytest.raises(InferenceError, match="previous error during capture"):
        gpu.capture(stream, lambda: _ignore(lambda: gpu.synchronize(stream)))
    gpu.synchronize(stream)
    assert not fake.graphs


def _ignore(call: Any) -> None:
    with pytest.raises(InferenceError):
        call()
