"""OpenVINO on an exported bundle: real graphs, real threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from bundle.errors import BundleError, InferenceError, OutOfMemory, RuntimeUnavailable
from bundle.masking import keep_ids
from bundle.store import Bundle
from runtime.agreement import cosines
from runtime.base import Arrays, ServedPrecision
from runtime.cores import usable_cores
from runtime.machine import multiplies_in_bf16
from runtime.onnx import OnnxRuntime
from runtime.openvino import OpenVinoRuntime
from runtime.selfcheck import prove
from tests.runtime.conftest import edited, images

HAS_BF16 = multiplies_in_bf16(openvino.Core())
PRECISIONS: list[ServedPrecision] = ["fp32", *(["bf16"] if HAS_BF16 else [])]  # type: ignore[list-item]


@pytest.fixture(scope="module")
def runtime(tiny_bundle: Bundle) -> OpenVinoRuntime:
    return OpenVinoRuntime(tiny_bundle)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_gives_its_golden_outputs(tiny_bundle: Bundle, precision: ServedPrecision) -> None:
    runtime = OpenVinoRuntime(tiny_bundle, precision)
    prove(tiny_bundle, runtime)
    golden = tiny_bundle.golden()
    for graph, spec in tiny_bundle.manifest.graphs.items():
        outputs = runtime.run(graph, {t.name: golden[f"{graph}.in.{t.name}"] for t in spec.inputs})
        assert list(outputs) == [t.name for t in spec.outputs]
        for name, value in outputs.items():
            expected = golden[f"{graph}.out.{name}"]
            assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
            worst = np.abs(value - expected).max()
            # bf16 has 8 bits of precision: were it not in use, fp32 would be thousands of times nearer.
            assert worst < 1e-4 if precision == "fp32" else 1e-4 < worst < 0.1


def test_int8_runs_the_int8_graph_and_the_others_in_fp32(int8_bundle: Bundle) -> None:
    runtime = OpenVinoRuntime(int8_bundle, "int8")
    batch = images(8, seed=9)
    plain = OnnxRuntime(int8_bundle).run("encoder", batch)
    ours = runtime.run("encoder", batch)
    reference = OnnxRuntime(int8_bundle, "int8").run("encoder", batch)
    for name in plain:
        assert cosines(ours[name], reference[name]).min() > 0.999
        assert np.abs(ours[name] - plain[name]).max() > 0.002  # not the fp32 graph's
    prove(int8_bundle, runtime)


def test_a_batch_gives_what_each_image_gives_alone(runtime: OpenVinoRuntime) -> None:
    batch = images(5)
    together = runtime.run("encoder", batch)
    for i in range(5):
        alone = runtime.run("encoder", {name: value[i : i + 1] for name, value in batch.items()})
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i], value[0], atol=1e-5)


def test_lanes_run_at_once_and_never_mix_their_answers(tiny_bundle: Bundle) -> None:
    """Six threads on two lanes, different images, batch sizes and subsets; each answer equals the one got alone, and
    stays what it was while the lanes go on.
    """

    def inputs(seed: int) -> Arrays:
        n, k = 1 + seed % 3, (16, 8, 4)[seed % 3]
        return {**images(n, seed), "ids_keep": np.broadcast_to(keep_ids(16, k / 16), (n, k))}

    runtime = OpenVinoRuntime(tiny_bundle, lanes=2)
    alone = [runtime.run("encoder", inputs(seed)) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        futures = [(seed % 12, pool.submit(runtime.run, "encoder", inputs(seed % 12))) for seed in range(240)]
    for seed, future in futures:
        for name, value in future.result().items():
            np.testing.assert_allclose(value, alone[seed][name], atol=1e-5)


def test_answers_are_the_callers_own(runtime: OpenVinoRuntime) -> None:
    first = runtime.run("encoder", images(2, seed=1))
    kept = {name: value.copy() for name, value in first.items()}
    for seed in range(20):
        runtime.run("encoder", images(2, seed))
    assert all(np.array_equal(first[name], kept[name]) for name in kept)
    assert all(value.flags.writeable and value.flags.owndata for value in first.values())


def test_many_shapes_take_no_more_memory_than_few(runtime: OpenVinoRuntime) -> None:
    def every_shape() -> None:
        for n in (1, 2, 3, 4):
            for k in range(1, 17):
                runtime.run("encoder", {**images(n), "ids_keep": np.broadcast_to(np.arange(k), (n, k))})

    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    every_shape()
    before = resident_mib()
    for _ in range(4):
        every_shape()
    assert resident_mib() - before < 8


def test_what_it_says_of_itself(tiny_bundle: Bundle, runtime: OpenVinoRuntime) -> None:
    assert (runtime.name, runtime.device, runtime.precision, runtime.max_batch) == ("openvino", "cpu", "fp32", 4)
    assert runtime.details == {
        "version": openvino.__version__.split("-")[0], "threads_per_lane": 1, "inference_precision": "f32"
    }  # fmt: skip
    assert runtime.lanes == usable_cores()
    assert OpenVinoRuntime(tiny_bundle, lanes=3).lanes == 3
    with pytest.raises(ValueError, match="lanes must be at least 1, got 0"):
        OpenVinoRuntime(tiny_bundle, lanes=0)


@pytest.mark.skipif(not HAS_BF16, reason="this CPU does not multiply in bf16")
def test_bf16_is_said(tiny_bundle: Bundle) -> None:
    runtime = OpenVinoRuntime(tiny_bundle, "bf16")
    assert (runtime.precision, runtime.details["inference_precision"]) == ("bf16", "bf16")


def test_bf16_is_refused_where_the_cpu_has_it_not(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.openvino.multiplies_in_bf16", lambda _: False)
    with pytest.raises(RuntimeUnavailable, match="this CPU does not multiply in bf16; use fp32 or int8"):
        OpenVinoRuntime(tiny_bundle, "bf16")


def test_precisions_that_are_not_there_are_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnavailable, match="OpenVINO gains nothing from fp16 on CPUs; use fp32, bf16 or int8"):
        OpenVinoRuntime(tiny_bundle, "fp16")
    with pytest.raises(BundleError, match="no int8 encoder graph"):
        OpenVinoRuntime(tiny_bundle, "int8")


def test_inputs_that_are_not_the_manifests_are_named(runtime: OpenVinoRuntime) -> None:
    with pytest.raises(ValueError, match="ids_keep must be int64"):
        runtime.run("encoder", {**images(2), "ids_keep": np.zeros((2, 4), np.int32)})


def test_a_graph_that_openvino_refuses_is_named_in_one_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def unknown(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "Abracadabra"

    with pytest.raises(RuntimeUnavailable, match=r"^OpenVINO cannot load .*head\.onnx: [^\n]*Abracadabra[^\n]*$"):
        OpenVinoRuntime(edited(tiny_bundle, tmp_path, "head", unknown))


def test_a_graph_that_lacks_an_input_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = "features"
        for node in model.graph.node:
            node.input[:] = ["features" if name == "mean" else name for name in node.input]

    with pytest.raises(BundleError, match=r"head \(.*head\.onnx\) .* lacks the input 'mean', and has 'features'"):
        OpenVinoRuntime(edited(tiny_bundle, tmp_path, "head", rename))


def test_a_failing_call_says_so_and_the_next_one_works(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A head that takes two images at a time: an odd number cannot be reshaped."""

    def pairs(model: onnx.ModelProto) -> None:
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.initializer.extend(
            [
                onnx.numpy_helper.from_array(np.array([-1, 64]), "pair"),
                onnx.numpy_helper.from_array(np.ones((64, 5), np.float32), "weight"),
            ]
        )
        model.graph.node.extend(
            [
                onnx.helper.make_node("Reshape", ["mean", "pair"], ["pairs"]),
                onnx.helper.make_node("MatMul", ["pairs", "weight"], ["logits"]),
            ]
        )

    runtime = OpenVinoRuntime(edited(tiny_bundle, tmp_path, "head", pairs))
    with pytest.raises(InferenceError, match=r"^head: [^\n]+$"):
        runtime.run("head", {"mean": np.ones((3, 32), np.float32)})
    for _ in range(runtime.lanes):
        assert (runtime.run("head", {"mean": np.ones((2, 32), np.float32)})["logits"] == 64).all()


def test_closing_twice_is_fine_and_ends_it(tiny_bundle: Bundle) -> None:
    runtime = OpenVinoRuntime(tiny_bundle)
    runtime.close()
    runtime.close()
    with pytest.raises(InferenceError, match="closed"):
        runtime.run("encoder", images(1))


@pytest.mark.parametrize("said", ["std::bad_alloc", "could not allocate 900 bytes", "Out of memory"])
def test_a_call_that_memory_does_not_hold_says_so(tiny_bundle: Bundle, said: str) -> None:
    """What OpenVINO raises cannot be had at will: where memory ends, it may end the process."""

    class Full:
        def infer(self, *_: object, **__: object) -> None:
            raise RuntimeError(f"Exception from src/inference/src/cpp/infer_request.cpp:224:\n{said}\n")

    runtime = OpenVinoRuntime(tiny_bundle, lanes=1)
    runtime._requests["encoder"].get()
    runtime._requests["encoder"].put(Full())
    with pytest.raises(OutOfMemory, match=f"^encoder: {said}$"):
        runtime.run("encoder", images(1))


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """OpenVINO's own import calls an analytics service and writes to the home folder."""
    program = """
import sys

def watch(event, arguments):
    if event.startswith("socket.") or event in ("os.mkdir", "subprocess.Popen"):
        print(event, *arguments)

sys.addaudithook(watch)
import runtime.openvino
"""
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
