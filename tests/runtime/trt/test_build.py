"""What TensorRT is asked to build, and how its refusals reach the user."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bundle.errors import BundleError, RuntimeUnavailable
from bundle.manifest import GraphName, GraphSpec
from bundle.store import Bundle
from runtime.trt.build import WORKSPACE_BYTES, Built, build_engine
from runtime.trt.engine import open_workshop
from runtime.trt.graph import check_readable
from runtime.trt.libraries import make_logger
from runtime.trt.profiles import plan_profiles
from tests.runtime.trt.fake_tensorrt import BuilderFlag, FakeTensorRT, IBuilderConfig, ICudaEngine, MemoryPoolType

FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8


def write(
    file: Path, nodes: Sequence[onnx.NodeProto], constants: dict[str, NDArray[Any]] | None = None, dtype: int = UINT8
) -> Path:
    """A graph from `x` [N, 4] of `dtype` to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, ["N", 4])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


def build(trt: FakeTensorRT, bundle: Bundle, file: Path | None = None, **options: Any) -> Built:
    spec = bundle.manifest.graphs["encoder"]
    profiles = plan_profiles("encoder", spec, 16, 8)
    file = file or bundle.graph_file("encoder")
    return build_engine(trt, make_logger(trt), file, spec, profiles, **{"precision": "fp32", **options})


def make_engine(trt: FakeTensorRT, content: bytes) -> ICudaEngine:
    engine = trt.Runtime(make_logger(trt)).deserialize_cuda_engine(content)
    assert engine is not None
    return engine


def test_profiles_memory_and_precision_are_what_was_asked_for(
    trt: FakeTensorRT, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[tuple[MemoryPoolType, int]] = []
    monkeypatch.setattr(IBuilderConfig, "set_memory_pool_limit", lambda _, pool, size: pools.append((pool, size)))
    build(trt, tiny_bundle)
    build(trt, tiny_bundle, precision="fp16")
    assert [b["flags"] for b in trt.builds] == [set(), {BuilderFlag.TF32}]
    assert trt.builds[0]["profiles"][2] == {
        "images": [(1, 32, 32, 3), (8, 32, 32, 3), (8, 32, 32, 3)],
        "ids_keep": [(1, 1), (8, 4), (8, 16)],
    }
    assert pools == [(MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)] * 2


def test_timings_of_another_version_are_not_used(trt: FakeTensorRT, tiny_bundle: Bundle) -> None:
    timing = build(trt, tiny_bundle).timing
    assert build(trt, tiny_bundle, timing=timing).timing != timing
    trt.__version__ = "11.5.0.1"
    build(trt, tiny_bundle, timing=timing)
    assert [b["timing"] for b in trt.builds] == [0, 1, 0]


def test_a_build_that_fails_says_why_in_one_line(trt: FakeTensorRT, tiny_bundle: Bundle) -> None:
    trt.refuse = "could not find any\n implementation for node {ForeignNode}"
    with pytest.raises(RuntimeUnavailable, match=r"cannot build .*encoder\.onnx: could not find any implementation"):
        build(trt, tiny_bundle)


def test_all_complaints_of_the_parser_are_in_the_message(
    trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["i"], name="first"),
        helper.make_node("MatMulInteger", ["x", "w"], ["j"], name="second"),
        helper.make_node("Cast", ["i"], ["y"], to=FLOAT),
    ]
    file = write(tmp_path / "m.onnx", nodes, {"w": np.ones((4, 4), np.int8)}, dtype=INT8)
    with pytest.raises(RuntimeUnavailable, match="MatMulInteger first: is not supported; MatMulInteger second: is not"):
        build(trt, tiny_bundle, file)


def test_a_library_that_does_not_start_says_so(
    trt: FakeTensorRT, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nothing(logger: Any) -> None:
        logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Builder", nothing)
    with pytest.raises(RuntimeUnavailable, match="TensorRT does not start: CUDA initialization failure"):
        build(trt, tiny_bundle)
    monkeypatch.setattr(trt, "Runtime", nothing)
    with pytest.raises(RuntimeUnavailable, match="TensorRT does not start: CUDA initialization failure"):
        open_workshop(tiny_bundle, "fp32", gpu=0, engine_cache=tmp_path)


def test_an_engine_that_is_not_the_manifests_is_refused(trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path) -> None:
    del trt
    graphs = dict(tiny_bundle.manifest.graphs)
    wrong = graphs["head"].outputs[0].model_copy(update={"shape": ("N", 7)})
    graphs["head"] = graphs["head"].model_copy(update={"outputs": (wrong,)})
    manifest = tiny_bundle.manifest.model_copy(update={"graphs": graphs})
    workshop = open_workshop(Bundle(tiny_bundle.path, manifest, None), "fp32", gpu=0, engine_cache=tmp_path)
    with pytest.raises(BundleError, match=r"the head engine is not the graph that the manifest describes: .*logits"):
        workshop.engine("head")


# The graph


@pytest.mark.parametrize("graph", ["encoder", "decoder", "head"])
def test_the_graphs_that_are_exported_are_read_as_they_are(tiny_bundle: Bundle, graph: GraphName) -> None:
    check_readable(tiny_bundle.graph_file(graph))


@pytest.mark.parametrize("first", ["Identity", "Shape", "Max"])
def test_bytes_that_meet_anything_but_a_cast_are_refused(tmp_path: Path, first: str) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node(first, ["x"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=FLOAT),
    ]
    file = write(tmp_path / "m.onnx", nodes)
    with pytest.raises(RuntimeUnavailable, match=rf"m\.onnx: {first} takes x as bytes, .*; export the bundle again"):
        check_readable(file)


def test_a_graph_of_old_is_refused_before_it_is_built(trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """It moved bytes about first."""
    nodes = [helper.make_node("Transpose", ["x"], ["m"]), helper.make_node("Cast", ["m"], ["y"], to=FLOAT)]
    with pytest.raises(RuntimeUnavailable, match="Transpose takes x as bytes"):
        build(trt, tiny_bundle, write(tmp_path / "m.onnx", nodes))
    assert not trt.builds


def quantized(file: Path, point: NDArray[Any] | None) -> Path:
    ends = [] if point is None else ["z"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", *ends], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", *ends], ["y"]),
    ]
    constants = {"s": np.float32(0.5), **({} if point is None else {"z": point})}
    return write(file, nodes, {name: np.asarray(value) for name, value in constants.items()}, dtype=FLOAT)


def test_int8_around_zero_is_read(tmp_path: Path) -> None:
    check_readable(quantized(tmp_path / "m.onnx", np.zeros((), np.int8)))


@pytest.mark.parametrize("point", [np.int8(3), np.uint8(0), np.uint8(128), None])
def test_any_other_quantization_is_refused(tmp_path: Path, point: NDArray[Any] | None) -> None:
    with pytest.raises(RuntimeUnavailable, match="TensorRT multiplies int8 around 0 alone; use precision fp16"):
        check_readable(quantized(tmp_path / "m.onnx", point))


def test_dynamic_int8_is_refused_before_any_library_is_loaded(tiny_bundle: Bundle, tmp_path: Path) -> None:
    encoder = tiny_bundle.manifest.graphs["encoder"]
    fields = {**encoder.model_dump(), "files": {**encoder.files, "int8": "encoder.onnx"}, "quantization": "dynamic"}
    graphs = {**tiny_bundle.manifest.graphs, "encoder": GraphSpec.model_validate(fields)}
    bundle = Bundle(tiny_bundle.path, tiny_bundle.manifest.model_copy(update={"graphs": graphs}), None)
    with pytest.raises(RuntimeUnavailable, match=r"int8 with scales in the graph \(static\) alone; use precision fp16"):
        open_workshop(bundle, "int8", gpu=0, engine_cache=tmp_path)
    assert "tensorrt" not in sys.modules


def test_weights_beside_the_graph_are_found(trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(tiny_bundle.graph_file("encoder"))
    file = tmp_path / "encoder.onnx"
    onnx.save(model, file, save_as_external_data=True, location="encoder.data", size_threshold=0)
    assert file.stat().st_size < (tmp_path / "encoder.data").stat().st_size
    engine = make_engine(trt, build(trt, tiny_bundle, file).engine)
    golden = tiny_bundle.golden()
    (cls,) = engine.session.run(["cls"], {name: golden[f"encoder.in.{name}"] for name in ("images", "ids_keep")})
    np.testing.assert_allclose(cls, golden["encoder.out.cls"], atol=1e-5)


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph at all")
    with pytest.raises(RuntimeUnavailable, match=r"m\.onnx cannot be read: .*; export the bundle again"):
        check_readable(tmp_path / "m.onnx")
