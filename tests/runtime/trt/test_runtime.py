"""TensorRT's runtime on a GPU and a TensorRT of our own, which compute the real graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import runtime.trt.lane
from bundle.errors import BundleError, InferenceError, OutOfMemory, RuntimeUnavailable
from bundle.masking import all_ids, keep_ids
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.onnx import OnnxRuntime
from runtime.selfcheck import prove
from runtime.trt.profiles import buckets
from runtime.trt.runtime import LANES, TensorRTRuntime
from tests.runtime.trt.fake_cuda import FakeCuda, cudaError_t
from tests.runtime.trt.fake_tensorrt import FakeTensorRT


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests that do not care who built the engines."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def open_runtime(tiny_bundle: Bundle, trt: FakeTensorRT, engines: Path) -> Iterator[Callable[..., TensorRTRuntime]]:
    opened: list[TensorRTRuntime] = []

    def open_runtime(gpu: int = 0) -> TensorRTRuntime:
        opened.append(TensorRTRuntime(tiny_bundle, "fp32", gpu=gpu, engine_cache=engines))
        return opened[-1]

    del trt  # it must be there
    yield open_runtime
    for served in opened:
        served.close()


def images(n: int, seed: int = 0, k: int = 16) -> Arrays:
    """The encoder's inputs: noise, K of 16 patches."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return {"images": pixels, "ids_keep": all_ids(n, 16) if k == 16 else np.broadcast_to(keep_ids(16, k / 16), (n, k))}


def assert_close(actual: Arrays, expected: Arrays) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        assert actual[name].shape == value.shape
        np.testing.assert_allclose(actual[name], value, atol=1e-5)


def test_every_graph_gives_its_golden_outputs(
    tiny_bundle: Bundle, open_runtime: Callable[..., TensorRTRuntime]
) -> None:
    runtime = open_runtime()
    golden = tiny_bundle.golden()
    for graph, spec in tiny_bundle.manifest.graphs.items():
        outputs = runtime.run(graph, {t.name: golden[f"{graph}.in.{t.name}"] for t in spec.inputs})
        for tensor in spec.outputs:
            expected = golden[f"{graph}.out.{tensor.name}"]
            tolerance = tiny_bundle.manifest.parity[f"{graph}.fp32"].tolerance
            np.testing.assert_allclose(outputs[tensor.name], expected, atol=tolerance)
    prove(tiny_bundle, runtime)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 130])
@pytest.mark.parametrize("k", [16, 7, 1])
def test_any_batch_and_any_part_give_what_onnx_runtime_gives(
    tiny_bundle: Bundle, open_runtime: Callable[..., TensorRTRuntime], n: int, k: int
) -> None:
    """Padded to a bucket and cut again, or in several calls; the second and third time from a CUDA graph."""
    runtime, inputs = open_runtime(), images(n, k=k)
    expected = OnnxRuntime(tiny_bundle).run("encoder", inputs)
    for _ in range(3):
        assert_close(runtime.run("encoder", inputs), expected)


def test_padding_holds_nothing_of_an_earlier_call(open_runtime: Callable[..., TensorRTRuntime], cuda: FakeCuda) -> None:
    runtime = open_runtime()
    for _ in range(LANES):
        runtime.run("encoder", {**images(4), "images": np.full((4, 32, 32, 3), 255, np.uint8)})
    for _ in range(LANES):
        runtime.run("encoder", {**images(3), "images": np.full((3, 32, 32, 3), 7, np.uint8)})
    pixels = 32 * 32 * 3
    for block in cuda.host.values():
        assert (block[: 3 * pixels] == 7).all()
        assert (block[3 * pixels : 4 * pixels] == 0).all()


def test_outputs_are_the_callers_own(open_runtime: Callable[..., TensorRTRuntime]) -> None:
    runtime = open_runtime()
    first = runtime.run("encoder", images(2, seed=1))
    kept = {name: value.copy() for name, value in first.items()}
    for seed in range(4):
        runtime.run("encoder", images(2, seed=seed))
    for name, value in kept.items():
        assert np.array_equal(first[name], value)


def test_usual_shapes_are_cuda_graphs_before_the_first_call(
    open_runtime: Callable[..., TensorRTRuntime], cuda: FakeCuda, tiny_bundle: Bundle
) -> None:
    runtime = open_runtime()
    graphs = LANES * len(tiny_bundle.manifest.graphs) * len(buckets(64))
    assert cuda.captures == len(cuda.graphs) == runtime.details["cuda_graphs"] == graphs
    launches, executions = cuda.launches, cuda.executions
    for n in range(1, 65, 7):
        runtime.run("encoder", images(n))
    assert cuda.launches == launches + 10
    assert cuda.executions == executions


def test_another_part_of_the_patches_becomes_a_graph_the_second_time(
    open_runtime: Callable[..., TensorRTRuntime], cuda: FakeCuda
) -> None:
    runtime = open_runtime()
    captures, executions = cuda.captures, cuda.executions
    for _ in range(3 * LANES):
        runtime.run("encoder", images(3, k=5))
    assert (cuda.captures - captures, cuda.executions - executions) == (LANES, LANES)


def test_shapes_are_kept_up_to_a_bound_and_the_oldest_goes(
    open_runtime: Callable[..., TensorRTRuntime], cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.trt.lane, "MAX_SHAPES", 5)
    served = open_runtime()
    assert len(cuda.graphs) == LANES * 5
    for k in range(1, 16):
        for _ in range(2 * LANES):
            served.run("encoder", images(1, k=k))
    assert len(cuda.graphs) == LANES * 5
    executions = cuda.executions
    for k in (11, 15, 14, 13):  # still there, the one used last longest
        for _ in range(LANES):
            served.run("encoder", images(1, k=k))
    assert cuda.executions == executions
    for k in (1, 11, 2, 11, 3, 11, 4, 11):
        for _ in range(LANES):  # lanes take turns
            served.run("encoder", images(1, k=k))
    assert cuda.executions == executions + 4 * LANES


def test_a_network_that_cannot_be_captured_runs_kernel_by_kernel(
    open_runtime: Callable[..., TensorRTRuntime], trt: FakeTensorRT, cuda: FakeCuda, tiny_bundle: Bundle
) -> None:
    trt.capturable = False
    runtime = open_runtime()
    assert (cuda.captures, runtime.details["cuda_graphs"]) == (0, 0)
    assert_close(runtime.run("encoder", images(3)), OnnxRuntime(tiny_bundle).run("encoder", images(3)))


def test_two_lanes_run_at_once_and_never_mix_their_answers(
    open_runtime: Callable[..., TensorRTRuntime], tiny_bundle: Bundle
) -> None:
    """Six threads, different images, batch sizes and subsets, two graphs; each answer equals the one got alone."""
    served, reference = open_runtime(), OnnxRuntime(tiny_bundle)
    calls = [images(1 + seed % 5, seed, (16, 8, 4)[seed % 3]) for seed in range(12)]
    expected = [reference.run("encoder", call) for call in calls]
    heads = [reference.run("head", {"mean": out["mean"]}) for out in expected]

    def call(i: int) -> None:
        encoded = served.run("encoder", calls[i])
        assert_close(encoded, expected[i])
        assert_close(served.run("head", {"mean": encoded["mean"]}), heads[i])

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(call, i % 12) for i in range(240)]:
            future.result()
    assert served.lanes == 2


def test_both_lanes_are_used_by_two_callers(
    open_runtime: Callable[..., TensorRTRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each caller waits inside of its call until the other one is inside too."""
    served = open_runtime()
    meeting = threading.Barrier(2, timeout=10)
    original = runtime.trt.lane.Lane._start

    def start(lane: runtime.trt.lane.Lane, *arguments: object) -> None:
        meeting.wait()
        original(lane, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime.trt.lane.Lane, "_start", start)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(served.run, "encoder", images(1)) for _ in range(2)]:
            future.result(timeout=20)


def test_another_gpu_is_used_from_every_thread(
    tiny_bundle: Bundle, trt: FakeTensorRT, cuda: FakeCuda, engines: Path
) -> None:
    del trt
    cuda.gpus = 2
    served = TensorRTRuntime(tiny_bundle, "fp32", gpu=1, engine_cache=engines)
    assert served.device == "cuda:1"
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(served.run, "encoder", images(2)) for _ in range(6)]:
            future.result()
    cuda.cudaSetDevice(0)  # somebody else's
    served.run("encoder", images(1))
    served.close()


@pytest.mark.parametrize(
    ("text", "error"),
    [("Error Code 1: Cuda Runtime (out of memory)", OutOfMemory), ("a kernel\n failed", InferenceError)],
)
def test_a_failing_call_says_so_and_the_next_one_works(
    open_runtime: Callable[..., TensorRTRuntime],
    trt: FakeTensorRT,
    cuda: FakeCuda,
    text: str,
    error: type[InferenceError],
) -> None:
    served = open_runtime()
    expected = served.run("encoder", images(3, k=6))
    for k in range(8, 8 + 2 * LANES):  # never asked for before, so each is a call and no launch of a CUDA graph
        trt.fail_next = text
        with pytest.raises(error, match=r"encoder: .*(out of memory|a kernel failed)") as caught:
            served.run("encoder", images(3, k=k))
        assert type(caught.value) is error
        assert not any(stream.queued for stream in cuda.streams.values())  # of the call that failed
        assert_close(served.run("encoder", images(3, k=6)), expected)


@pytest.mark.parametrize(("ids", "found"), [([[0, 16]], "0 to 16"), ([[-1, 3]], "-1 to 3")])
def test_an_id_out_of_range_never_reaches_the_gpu(
    open_runtime: Callable[..., TensorRTRuntime], cuda: FakeCuda, ids: list[list[int]], found: str
) -> None:
    served = open_runtime()
    before = cuda.launches, cuda.executions
    with pytest.raises(InferenceError, match=f"ids_keep must lie between 0 and 15, got {found}"):
        served.run("encoder", {**images(1), "ids_keep": np.array(ids)})
    assert (cuda.launches, cuda.executions) == before


def test_more_patches_than_there_are_is_an_error_that_a_future_can_carry(
    open_runtime: Callable[..., TensorRTRuntime],
) -> None:
    """Each id is in range, and one comes twice."""
    runtime = open_runtime()
    twice = {**images(2), "ids_keep": np.tile(np.arange(17) % 16, (2, 1))}
    for _ in range(LANES + 1):
        with pytest.raises(InferenceError, match="encoder: K must lie between 1 and 16, got 17"):
            runtime.run("encoder", twice)
    assert runtime.run("encoder", images(2))["cls"].shape == (2, 32)


def test_inputs_that_are_not_the_manifests_are_named(open_runtime: Callable[..., TensorRTRuntime]) -> None:
    served = open_runtime()
    with pytest.raises(ValueError, match=r"inputs must be \['ids_keep', 'images'\]"):
        served.run("encoder", {"images": images(1)["images"]})
    with pytest.raises(InferenceError, match="classifier: not loaded; there are encoder, decoder, head"):
        served.run("classifier", {"images": images(1)["images"]})


def test_closing_gives_everything_back_twice_is_fine_and_ends_it(
    open_runtime: Callable[..., TensorRTRuntime], cuda: FakeCuda
) -> None:
    served = open_runtime()
    assert cuda.device
    assert cuda.host
    served.close()
    served.close()
    assert cuda.is_empty
    with pytest.raises(InferenceError, match="closed"):
        served.run("encoder", images(1))


def test_a_gpu_that_has_failed_does_not_keep_the_service_from_ending(
    open_runtime: Callable[..., TensorRTRuntime], cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an illegal access every call of CUDA gives that error; what can be given back still is."""
    served = open_runtime()
    for name in ("cudaStreamDestroy", "cudaGraphExecDestroy", "cudaEventDestroy"):
        monkeypatch.setattr(cuda, name, lambda _: (cudaError_t.cudaErrorIllegalAddress,))
    served.close()
    assert not cuda.device
    assert not cuda.host


def test_closing_waits_for_the_call_that_runs_and_refuses_the_one_that_waits(
    open_runtime: Callable[..., TensorRTRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = open_runtime()
    inside, go_on = threading.Semaphore(0), threading.Event()
    original = runtime.trt.lane.Lane._start

    def start(lane: runtime.trt.lane.Lane, *arguments: object) -> None:
        inside.release()
        assert go_on.wait(10)
        original(lane, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime.trt.lane.Lane, "_start", start)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(served.run, "encoder", images(1)) for _ in range(LANES)]
        for _ in range(LANES):
            assert inside.acquire(timeout=10)
        closing = pool.submit(served.close)
        while not served._closed:
            threading.Event().wait(0.001)
        with pytest.raises(InferenceError, match="closed"):
            served.run("encoder", images(1))
        assert not closing.done()
        go_on.set()
        for future in running:
            assert future.result(timeout=10)["cls"].shape == (1, 32)
        closing.result(timeout=10)


# Opening


def test_it_says_what_it_is(trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path) -> None:
    del trt
    first = TensorRTRuntime(tiny_bundle, "fp32", gpu=0, engine_cache=tmp_path)
    second = TensorRTRuntime(tiny_bundle, "fp32", gpu=0, engine_cache=tmp_path)
    assert (first.name, first.device, first.precision, first.lanes, first.max_batch) == (
        "tensorrt", "cuda:0", "fp32", 2, 64,
    )  # fmt: skip
    for served, cached, built in ((first, 0, 3), (second, 3, 0)):
        assert {k: v for k, v in served.details.items() if k != "cuda_graphs"} == {
            "version": "11.4.0.106", "architecture": "sm_90", "engines_cached": cached, "engines_built": built,
        }  # fmt: skip
        served.close()


@pytest.mark.parametrize("memory", [2**10, 2**19, 2**20])
def test_a_gpu_without_room_is_named_with_the_way_out(
    tiny_bundle: Bundle, trt: FakeTensorRT, cuda: FakeCuda, engines: Path, memory: int
) -> None:
    del trt
    cuda.memory = memory
    with pytest.raises(RuntimeUnavailable, match=r"cuda:0 has no room for batches of 64 .* --max-batch N"):
        TensorRTRuntime(tiny_bundle, "fp32", gpu=0, engine_cache=engines)
    assert cuda.is_empty


def test_a_precision_that_the_bundle_lacks_is_refused(tiny_bundle: Bundle, trt: FakeTensorRT, engines: Path) -> None:
    del trt
    with pytest.raises(BundleError, match="no fp16 encoder graph"):
        TensorRTRuntime(tiny_bundle, "fp16", gpu=0, engine_cache=engines)
