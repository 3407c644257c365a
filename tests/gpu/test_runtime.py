"""ONNX Runtime's CUDA provider: the golden outputs, from many threads, and errors that leave it usable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from bundle.errors import RuntimeUnavailable
from bundle.masking import all_ids, keep_ids
from bundle.store import Bundle
from export.config import ExportConfig
from export.pipeline import export_run
from runtime import open_runtime
from runtime.base import Arrays, ServedPrecision
from runtime.machine import count_gpus
from runtime.onnx_cuda import CUDA, OnnxCudaRuntime
from runtime.pinned import PinnedBuffer
from runtime.selfcheck import prove
from tests.conftest import TinyRuns

pytestmark = pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu")


@pytest.fixture(scope="module")
def bundle(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In fp32 and fp16."""
    out = tmp_path_factory.mktemp("half") / "bundle"
    config = ExportConfig(run=tiny_runs.pretrained, classifier=tiny_runs.probe, out=out, precision="fp32,fp16")
    return export_run(config)


def inputs(seed: int) -> Arrays:
    n, k = 1 + seed % 3, (16, 8, 4)[seed % 3]
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return {"images": pixels, "ids_keep": np.broadcast_to(keep_ids(16, k / 16), (n, k))}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_golden_outputs_come_from_the_gpu(bundle: Bundle, precision: ServedPrecision) -> None:
    runtime = open_runtime(bundle, "onnxruntime", device="cuda", precision=precision)
    assert (runtime.device, runtime.precision, runtime.details["provider"]) == ("cuda:0", precision, CUDA)
    prove(bundle, runtime)


def test_every_operator_has_a_kernel_there(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    """One that has none is computed on the CPU, between two copies, and is warned of."""
    for precision in ("fp32", "fp16"):
        open_runtime(bundle, "onnxruntime", device="cuda", precision=precision).close()
    assert caplog.text == ""


def test_threads_never_mix_their_answers(bundle: Bundle) -> None:
    runtime = OnnxCudaRuntime(bundle, "fp32", gpu=0)
    alone = [runtime.run("encoder", inputs(seed)) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        futures = [(seed % 12, pool.submit(runtime.run, "encoder", inputs(seed % 12))) for seed in range(600)]
    for seed, future in futures:
        for name, value in future.result().items():
            np.testing.assert_allclose(value, alone[seed][name], atol=1e-4)


def test_a_full_batch_gives_every_image_its_answer(bundle: Bundle) -> None:
    runtime = OnnxCudaRuntime(bundle, "fp32", gpu=0)
    n = runtime.max_batch
    full: Arrays = {"images": np.zeros((n, 32, 32, 3), np.uint8), "ids_keep": all_ids(n, 16)}
    cls = runtime.run("encoder", full)["cls"]
    alone = runtime.run("encoder", {name: array[:1] for name, array in full.items()})["cls"]
    np.testing.assert_allclose(cls, alone.repeat(n, axis=0), atol=1e-5)


def test_the_drivers_memory_is_pinned() -> None:
    buffer = PinnedBuffer(0)
    buffer.hold(np.ones(10**6, np.uint8))
    assert buffer.pinned


def test_a_gpu_that_is_not_there_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnavailable, match="counted from 0"):
        open_runtime(bundle, device=f"cuda:{count_gpus()}")
