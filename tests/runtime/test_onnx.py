"""ONNX Runtime on an exported bundle: real graphs, real threads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from bundle.errors import BundleError, InferenceError, RuntimeUnavailable
from bundle.masking import keep_ids
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.cores import usable_cores
from runtime.onnx import OnnxRuntime
from runtime.selfcheck import prove
from tests.runtime.conftest import edited, images


@pytest.fixture(scope="module")
def runtime(tiny_bundle: Bundle) -> OnnxRuntime:
    return OnnxRuntime(tiny_bundle)


def test_every_graph_gives_its_golden_outputs(tiny_bundle: Bundle, runtime: OnnxRuntime) -> None:
    golden = tiny_bundle.golden()
    for graph, spec in tiny_bundle.manifest.graphs.items():
        outputs = runtime.run(graph, {t.name: golden[f"{graph}.in.{t.name}"] for t in spec.inputs})
        assert list(outputs) == [t.name for t in spec.outputs]
        for name, value in outputs.items():
            expected = golden[f"{graph}.out.{name}"]
            assert value.dtype == expected.dtype
            np.testing.assert_allclose(value, expected, atol=tiny_bundle.manifest.parity[f"{graph}.fp32"].tolerance)


def test_a_batch_gives_what_each_image_gives_alone(runtime: OnnxRuntime) -> None:
    batch = images(5)
    together = runtime.run("encoder", batch)
    for i in range(5):
        alone = runtime.run("encoder", {name: value[i : i + 1] for name, value in batch.items()})
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i], value[0], atol=1e-5)


def test_in_int8_too_an_image_is_told_apart_from_its_neighbours(int8_bundle: Bundle) -> None:
    """Dynamic int8 takes one scale for a whole call, unless the images come one by one."""
    runtime = OnnxRuntime(int8_bundle, "int8")
    assert runtime.max_batch == (1 if int8_bundle.manifest.graphs["encoder"].quantization == "dynamic" else 4)
    batch = images(4)
    batch["images"][1:3] //= 16
    together = runtime.run("encoder", batch)
    for i in range(4):
        alone = runtime.run("encoder", {name: value[i : i + 1] for name, value in batch.items()})
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i], value[0], atol=1e-5)


def test_images_and_subsets_have_their_own_embeddings(runtime: OnnxRuntime) -> None:
    batch = images(2)
    whole = runtime.run("encoder", batch)
    half = runtime.run("encoder", {**batch, "ids_keep": np.broadcast_to(keep_ids(16, 0.5), (2, 8))})
    assert np.abs(whole["cls"][0] - whole["cls"][1]).max() > 0.01
    assert np.abs(whole["mean"] - half["mean"]).max() > 0.01
    assert half["tokens"].shape == (2, 9, 32)


def test_lanes_run_at_once_and_never_mix_their_answers(runtime: OnnxRuntime) -> None:
    """Six threads on one session, different images, batch sizes and subsets; each answer equals the one got alone."""

    def inputs(seed: int) -> Arrays:
        n, k = 1 + seed % 3, (16, 8, 4)[seed % 3]
        return {**images(n, seed), "ids_keep": np.broadcast_to(keep_ids(16, k / 16), (n, k))}

    alone = [runtime.run("encoder", inputs(seed)) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        futures = [(seed % 12, pool.submit(runtime.run, "encoder", inputs(seed % 12))) for seed in range(240)]
    for seed, future in futures:
        for name, value in future.result().items():
            assert np.array_equal(value, alone[seed][name])


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_session_starts_no_threads_of_its_own(tiny_bundle: Bundle) -> None:
    """Otherwise lanes times threads would fight for the cores."""
    before = len(list(Path("/proc/self/task").iterdir()))
    runtime = OnnxRuntime(tiny_bundle, lanes=2)
    runtime.run("encoder", images(4))
    assert len(list(Path("/proc/self/task").iterdir())) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids_keep": None}, r"inputs must be \['ids_keep', 'images'\], got \['images'\]"),
        ({"noise": np.zeros(1)}, "got .*'noise'"),
        ({"images": np.zeros((2, 32, 32, 3), np.float32)}, r"images must be uint8 \[N, 32, 32, 3\], got float32"),
        ({"images": np.zeros((2, 32, 31, 3), np.uint8)}, r"images must be .*, got \[2, 32, 31, 3\]"),
        ({"images": np.zeros((32, 32, 3), np.uint8)}, r"images must be .*, got uint8 \[32, 32, 3\]"),
        ({"images": np.zeros((3, 32, 32, 3), np.uint8)}, r"ids_keep must be .*, got \[2, 16\] with \{'N': 3"),
        ({"ids_keep": np.zeros((2, 0), np.int64)}, "ids_keep must not be empty"),
        ({"ids_keep": np.zeros((2, 4), np.int32)}, "ids_keep must be int64"),
    ],
)
def test_inputs_that_are_not_the_manifests_are_named(
    runtime: OnnxRuntime, change: dict[str, np.ndarray | None], message: str
) -> None:
    inputs = {name: value for name, value in {**images(2), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        runtime.run("encoder", inputs)


def test_a_failing_call_says_so_and_the_next_one_works(runtime: OnnxRuntime) -> None:
    good = images(1)
    expected = runtime.run("encoder", good)
    with pytest.raises(InferenceError, match=r"encoder: .*out of"):
        runtime.run("encoder", {**good, "ids_keep": np.full((1, 16), 999)})
    assert np.array_equal(runtime.run("encoder", good)["cls"], expected["cls"])


def test_lanes_are_the_usable_cores_unless_set(tiny_bundle: Bundle, runtime: OnnxRuntime) -> None:
    assert (runtime.name, runtime.device, runtime.precision, runtime.max_batch) == ("onnxruntime", "cpu", "fp32", 4)
    assert runtime.details == {
        "version": onnxruntime.__version__, "provider": "CPUExecutionProvider", "threads_per_lane": 1
    }  # fmt: skip
    assert runtime.lanes == usable_cores()
    assert OnnxRuntime(tiny_bundle, lanes=3).lanes == 3
    with pytest.raises(ValueError, match="lanes must be at least 1, got 0"):
        OnnxRuntime(tiny_bundle, lanes=0)


def test_closing_twice_is_fine_and_ends_it(tiny_bundle: Bundle) -> None:
    runtime = OnnxRuntime(tiny_bundle)
    runtime.close()
    runtime.close()
    with pytest.raises(InferenceError, match="closed"):
        runtime.run("encoder", images(1))


def test_a_precision_that_the_bundle_lacks_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no int8 encoder graph"):
        OnnxRuntime(tiny_bundle, "int8")


def test_int8_runs_the_int8_graph_and_the_others_in_fp32(int8_bundle: Bundle) -> None:
    runtime = OnnxRuntime(int8_bundle, "int8")
    prove(int8_bundle, runtime)
    batch = images(4)
    off = np.abs(runtime.run("encoder", batch)["cls"] - OnnxRuntime(int8_bundle).run("encoder", batch)["cls"]).max()
    assert 0.001 < off < 1


def test_a_graph_that_lacks_an_input_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = "features"
        for node in model.graph.node:
            node.input[:] = ["features" if name == "mean" else name for name in node.input]

    with pytest.raises(BundleError, match=r"head \(.*head\.onnx\) .* lacks the input 'mean', and has 'features'"):
        OnnxRuntime(edited(tiny_bundle, tmp_path, "head", rename))


def test_a_graph_of_another_size_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def one_image(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(BundleError, match=r"'mean' is float32 \[1, 32\], and should be float32 \[N, 32\]; export"):
        OnnxRuntime(edited(tiny_bundle, tmp_path, "head", one_image))


def test_a_graph_that_onnx_runtime_refuses_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    (copy / "decoder.onnx").write_bytes(b"no graph at all")
    with pytest.raises(RuntimeUnavailable, match=r"cannot load .*decoder\.onnx"):
        OnnxRuntime(replace(tiny_bundle, path=copy))


def test_a_call_that_memory_does_not_hold_says_so_and_smaller_ones_go_on(tiny_bundle: Bundle) -> None:
    program = f"""
import resource
from pathlib import Path
import numpy as np
from bundle.errors import OutOfMemory
from bundle.masking import all_ids
from bundle.store import load_bundle
from runtime.onnx import OnnxRuntime
from runtime.selfcheck import prove
from tests.runtime.conftest import edited, images

def run(n):
    runtime.run("encoder", {{"images": np.zeros((n, 32, 32, 3), np.uint8), "ids_keep": all_ids(n, 16)}})

runtime = OnnxRuntime(load_bundle(Path({str(tiny_bundle.path)!r})))
run(1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
try:
    run(20_000)
except OutOfMemory:
    run(1)
else:
    raise AssertionError("it fitted")
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)
