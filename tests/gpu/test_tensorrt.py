"""TensorRT on real hardware: the golden outputs in every precision, CUDA graphs, engines found again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bundle.manifest import Precision
from bundle.masking import all_ids, keep_ids
from bundle.store import Bundle, load_bundle
from runtime.agreement import cosines
from runtime.base import Arrays
from runtime.onnx import OnnxRuntime
from runtime.selfcheck import prove
from runtime.trt.runtime import LANES, TensorRTRuntime

pytestmark = pytest.mark.skipif(find_spec("tensorrt") is None, reason="needs TensorRT")

DEFAULT = Path(__file__).parents[2] / "models" / "default"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def images(bundle: Bundle, n: int, keep: float = 1, seed: int = 0) -> Arrays:
    """The encoder's inputs: noise, and a part of the patches."""
    model = bundle.manifest.model
    shape = (n, *model.image_size, model.channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    length = model.num_patches
    ids = all_ids(n, length) if keep == 1 else np.repeat(keep_ids(length, keep)[None], n, axis=0)
    return {"images": pixels, "ids_keep": ids}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("which", ["tiny", "default"])
def test_golden_outputs(which: str, precision: Precision, tiny_bundle: Bundle, engines: Path) -> None:
    bundle = tiny_bundle if which == "tiny" else load_bundle(DEFAULT)
    if precision not in bundle.manifest.graphs["encoder"].files:
        pytest.skip(f"the {which} bundle has no {precision}")
    runtime = TensorRTRuntime(bundle, precision, gpu=0, engine_cache=engines)
    prove(bundle, runtime)
    assert runtime.details["cuda_graphs"] == LANES * len(bundle.manifest.graphs) * 7  # batches of 1, 2, 4, ..., 64
    runtime.close()


def test_every_shape_from_every_thread_is_what_the_cpu_computes(tiny_bundle: Bundle, engines: Path) -> None:
    """The first time plainly, then from a CUDA graph."""
    runtime, reference = TensorRTRuntime(tiny_bundle, "fp32", gpu=0, engine_cache=engines), OnnxRuntime(tiny_bundle)
    calls = [images(tiny_bundle, n, keep, n) for n in (1, 3, 64, 70) for keep in (1, 0.5, 0.25)]
    expected = [reference.run("encoder", call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: runtime.run("encoder", calls[i % 12]), range(96)))
    for i, answer in enumerate(answers):
        for name, value in answer.items():
            assert cosines(value, expected[i % 12][name]).min() > 0.99999
    runtime.close()


def test_the_second_start_finds_the_engines(tiny_bundle: Bundle, engines: Path) -> None:
    for _ in range(2):
        runtime = TensorRTRuntime(tiny_bundle, "fp32", gpu=0, engine_cache=engines)
        built = runtime.details["engines_built"]
        runtime.close()
    assert built == 0
