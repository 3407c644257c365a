"""--storage half: files of half the size that compute in fp32, and say truly how far they lie from torch."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import export.onnx
import export.verify
from bundle.errors import RuntimeUnavailable
from bundle.manifest import GraphName
from bundle.store import Bundle
from export.config import ExportConfig, Storage
from export.errors import ExportError, ParityError
from export.formats.options import TritonOptions
from export.formats.triton import write_repository
from export.inspect import inspect, main
from export.onnx import GraphFile, write_model
from export.pipeline import export_run
from export.plan import plan_graphs
from export.storage import keep_in_half
from export.variants import Material, Variant, make_kept_in_half
from export.verify import make_cases
from mae import MaskedAutoencoder
from mae.weights import load_model, save_model
from runtime.agreement import cosines
from runtime.onnx import OnnxRuntime, session_options
from runtime.selfcheck import prove
from runtime.trt.graph import check_readable
from service.app import create_app
from service.settings import Settings
from tests.conftest import TinyRuns
from tests.export.test_variants import pictures

GRAPHS: tuple[GraphName, ...] = ("encoder", "decoder", "head")
INT8 = ("encoder.int8.onnx", "decoder.int8.onnx")


@pytest.fixture(scope="module")
def bundles(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> dict[Storage, Bundle]:
    """The tiny networks in fp32 and int8, by how the fp32 graphs keep their weights."""
    root = tmp_path_factory.mktemp("storage")
    run = Path(shutil.copytree(tiny_runs.pretrained, root / "tiny"))
    np.savez_compressed(run / "samples.npz", images=pictures(64))
    config = ExportConfig(
        run=run, classifier=tiny_runs.probe, out=root, precision="fp32,int8", int8="static"
    )  # fmt: skip
    return {storage: export_run(replace(config, storage=storage, out=root / storage)) for storage in get_args(Storage)}


@pytest.fixture(scope="module")
def kept(bundles: dict[Storage, Bundle]) -> Bundle:
    return bundles["half"]


def golden_outputs(bundle: Bundle, graph: GraphName) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """(what ONNX Runtime gives, what torch gave) by output."""
    golden, spec = bundle.golden(), bundle.manifest.graphs[graph]
    found = OnnxRuntime(bundle, lanes=1).run(graph, {t.name: golden[f"{graph}.in.{t.name}"] for t in spec.inputs})
    return {name: (value, golden[f"{graph}.out.{name}"]) for name, value in found.items()}


# What is written


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_the_file_is_half_the_size_and_valid(bundles: dict[Storage, Bundle], graph: GraphName) -> None:
    full, half = (bundles[storage].graph_file(graph) for storage in ("full", "half"))
    assert half.name == full.name
    matrices = [t for t in onnx.load(full).graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    saved = sum(len(t.raw_data) // 2 for t in matrices)
    casts = 200 * len(matrices)  # what they take, at most
    assert full.stat().st_size - saved <= half.stat().st_size <= full.stat().st_size - saved + casts
    assert half.stat().st_size < 0.56 * full.stat().st_size  # the rest is the tiny network's vectors and nodes
    onnx.checker.check_model(half, full_check=True)


def test_matrices_are_half_and_all_else_is_as_it_was(bundles: dict[Storage, Bundle]) -> None:
    full, half = (onnx.load(bundles[storage].graph_file("encoder")).graph for storage in ("full", "half"))
    was = {tensor.name: tensor for tensor in full.initializer}
    for tensor in half.initializer:
        original = was.pop(tensor.name.removesuffix(".half"))
        array = numpy_helper.to_array(original)
        if array.dtype == np.float32 and array.ndim > 1:
            assert tensor.name.endswith(".half")
            array = array.astype(np.float16)
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), array, strict=True)
    assert was == {}
    casts = [node for node in half.node if node.input and node.input[0].endswith(".half")]
    assert {node.op_type for node in casts} == {"Cast"}
    assert [node for node in half.node if node not in casts] == list(full.node)


def test_int8_is_made_of_the_weights_as_they_were_trained(bundles: dict[Storage, Bundle]) -> None:
    full, half = bundles["full"].manifest, bundles["half"].manifest
    for name in (*INT8, "golden.npz", "labels.json"):
        assert half.files[name] == full.files[name]
    assert half.files["encoder.onnx"] != full.files["encoder.onnx"]


# What it computes


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_it_lies_where_the_manifest_says(kept: Bundle, graph: GraphName) -> None:
    parity = kept.manifest.parity[f"{graph}.fp32"]
    assert parity.images is not None
    assert parity.min_cosine == 0.99999
    assert min(parity.cosine_min, parity.images.cosine_min) > 0.99999
    worst = 0.0
    for actual, expected in golden_outputs(kept, graph).values():
        assert cosines(actual, expected).min() > parity.min_cosine
        worst = max(worst, float(np.abs(actual - expected).max()))
    assert worst <= parity.max_abs <= parity.tolerance < 5 * parity.max_abs


def test_the_figures_are_those_of_the_stored_graph(bundles: dict[Storage, Bundle]) -> None:
    """Rounding shows; a manifest that has the full graph's figures would not."""
    full, half = (bundles[storage].manifest.parity["encoder.fp32"] for storage in ("full", "half"))
    assert half.max_abs > 50 * full.max_abs
    assert half.images is not None
    assert full.images is not None
    assert half.images.max_abs > 50 * full.images.max_abs


def test_what_runs_in_fp32_beside_int8_is_the_stored_graph(kept: Bundle) -> None:
    """The head has no int8: on made-up inputs it is the same graph, held to the same."""
    fp32, int8 = kept.manifest.parity["head.fp32"], kept.manifest.parity["head.int8"]
    assert (int8.max_abs, int8.tolerance, int8.min_cosine) == (fp32.max_abs, fp32.tolerance, fp32.min_cosine)


def optimized(file: Path, out: Path) -> onnx.GraphProto:
    """What ONNX Runtime runs, as it writes it."""
    options = session_options()
    options.optimized_model_filepath = str(out)
    ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return onnx.load(out).graph


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_onnx_runtime_runs_what_it_runs_of_full_weights(
    bundles: dict[Storage, Bundle], graph: GraphName, tmp_path: Path
) -> None:
    full, half = (
        optimized(bundles[storage].graph_file(graph), tmp_path / f"{storage}.onnx") for storage in ("full", "half")
    )
    weights = {tensor.name: tensor.data_type for tensor in half.initializer}
    assert TensorProto.FLOAT16 not in weights.values()
    assert [node.op_type for node in half.node if node.op_type == "Cast" and node.input[0] in weights] == []
    assert Counter(node.op_type for node in half.node) == Counter(node.op_type for node in full.node)


def test_openvino_runs_it(kept: Bundle) -> None:
    pytest.importorskip("openvino")
    from runtime.openvino import OpenVinoRuntime

    prove(kept, OpenVinoRuntime(kept, lanes=1))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
async def test_the_service_starts_with_it(kept: Bundle, precision: Any) -> None:
    """Which holds its engine to the golden outputs."""
    app = create_app(Settings(), bundle=kept, runtime=OnnxRuntime(kept, precision, lanes=1))
    async with app.router.lifespan_context(app):
        pass


def test_another_network_s_outputs_are_no_rounding(kept: Bundle) -> None:
    class Off(OnnxRuntime):
        def run(self, *arguments: Any, **options: Any) -> dict[str, NDArray[Any]]:
            return {name: 1.01 * array for name, array in super().run(*arguments, **options).items()}

    with pytest.raises(RuntimeUnavailable, match=r"in fp32 computes another encoder\.\w+ than the export saw"):
        prove(kept, Off(kept, lanes=1))


def test_a_repository_for_triton_holds_the_same_files(kept: Bundle, tmp_path: Path) -> None:
    write_repository(kept, tmp_path / "r", TritonOptions())
    for graph in GRAPHS:
        model = tmp_path / "r" / f"tiny-{graph}" / "1" / "model.onnx"
        assert model.read_bytes() == kept.graph_file(graph).read_bytes()


@pytest.mark.parametrize("graph", GRAPHS)
def test_tensorrt_is_given_nothing_that_it_refuses(kept: Bundle, graph: GraphName) -> None:
    check_readable(kept.graph_file(graph))


# What export.inspect makes of it


def test_inspect_counts_as_ever_and_says_how_weights_are_kept(bundles: dict[Storage, Bundle]) -> None:
    full, half = (inspect(bundles[storage].path) for storage in ("full", "half"))
    assert half.faults == []
    # The patch embedding, which int8 graphs have in float32.
    assert [len(each.places) for each in full.repeated] == [2]
    assert half.repeated == []
    kept_in = {}
    for a, b in zip(full.graphs, half.graphs, strict=True):
        assert (b.parameters, b.flops) == (a.parameters, a.flops)
        assert {op: count for op, count in b.ops.items() if op != "Cast"} == {
            op: count for op, count in a.ops.items() if op != "Cast"
        }
        kept_in[b.file] = (a.kept_in, b.kept_in)
    assert kept_in == {
        "encoder.onnx": ("float32", "float16"),
        "decoder.onnx": ("float32", "float16"),
        "head.onnx": ("float32", "float32"),
        "encoder.int8.onnx": ("int8", "int8"),
        "decoder.int8.onnx": ("int8", "int8"),
    }


def test_the_default_bundle_is_kept_in_half_but_for_its_head() -> None:
    folder = Path(__file__).parents[2] / "models" / "default"
    kept_in = {each.file: each.kept_in for each in inspect(folder).graphs}
    assert [kept_in[f"{name}.onnx"] for name in GRAPHS] == ["float16", "float16", "float32"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25e6


def test_inspect_prints_it(kept: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["inspect", str(kept.path)])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    (row,) = (line.split() for line in lines if "encoder.onnx" in line)
    assert row[:3] + row[7:8] == ["encoder", "fp32", "encoder.onnx", "float16"]


# Which weights


def product(weight: NDArray[np.float32], path: Path) -> GraphFile:
    """x @ weight + x @ weight, with a bias."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["x", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Add", ["c", "bias"], ["y"]),
    ]  # fmt: skip
    arrays = {"w": weight, "bias": np.linspace(0, 1, 512, dtype=np.float32)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 512]) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return GraphFile(path)


def initializers(file: GraphFile) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(file.path).graph.initializer}


def normal(scale: float) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(0).standard_normal((512, 512))).astype(np.float32)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e-2, 1e3])
def test_a_matrix_that_two_products_share_is_kept_in_half_once(tmp_path: Path, scale: float) -> None:
    """At 1e-4 half of its values are subnormal, and it loses a few 1e-4 of itself as any other."""
    file = keep_in_half(product(normal(scale), tmp_path / "full.onnx"), tmp_path / "half.onnx")
    assert initializers(file) == {"w.half": TensorProto.FLOAT16, "bias": TensorProto.FLOAT}
    (cast,) = (node for node in onnx.load(file.path).graph.node if node.op_type == "Cast")
    assert list(cast.output) == ["w"]


@pytest.mark.parametrize("scale", [1e-5, 1e-9, 1e-30])
def test_a_matrix_that_half_would_ruin_stays(tmp_path: Path, scale: float) -> None:
    full = product(normal(scale), tmp_path / "full.onnx")
    file = keep_in_half(full, tmp_path / "half.onnx")
    assert initializers(file) == {"w": TensorProto.FLOAT, "bias": TensorProto.FLOAT}
    assert "Cast" not in {node.op_type for node in onnx.load(file.path).graph.node}


def test_a_weight_beyond_half_s_range_is_named(tmp_path: Path) -> None:
    weight = normal(1)
    weight[3, 4] = -70000
    with pytest.raises(ExportError, match=r"w of full\.onnx reaches 7e\+04, and half precision ends at 65504"):
        keep_in_half(product(weight, tmp_path / "full.onnx"), tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


@pytest.mark.parametrize(("limit", "external"), [(100_000, False), (50_000, True)])
def test_weights_that_one_file_does_not_take(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, external: bool
) -> None:
    """They lie beside the full graph; halved they fit into it, or not."""
    whole = GraphFile(tiny_bundle.graph_file("encoder"))
    expected = keep_in_half(whole, tmp_path / "expected.onnx")
    monkeypatch.setattr(export.onnx, "MAX_FILE_BYTES", limit)
    full = write_model(ir.load(whole.path), tmp_path / "full.onnx")
    assert full.weights is not None
    half = keep_in_half(full, tmp_path / "half.onnx")
    assert (half.weights is not None) == external
    full.weights.unlink()  # nothing of it is needed any more
    golden = tiny_bundle.golden()
    inputs = {name: golden[f"encoder.in.{name}"] for name in ("images", "ids_keep")}
    one, two = (ort.InferenceSession(str(file.path)).run(None, inputs) for file in (expected, half))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


# How an export refuses


def test_a_run_with_such_a_weight_leaves_nothing(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    model = load_model(tiny_runs.pretrained)
    assert isinstance(model, MaskedAutoencoder)
    with torch.no_grad():
        model.get_parameter("encoder.blocks.1.mlp.fc2.weight")[0, 0] = 1e5
    save_model(model, tmp_path / "run")
    shutil.copy(tiny_runs.pretrained / "run.json", tmp_path / "run")
    config = ExportConfig(run=tmp_path / "run", out=tmp_path / "out", precision="fp32", storage="half")
    with pytest.raises(ExportError, match=r"of encoder\.onnx reaches 1e\+05, .*; leave out --storage half"):
        export_run(config)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_past_its_limit_it_says_what_to_leave_out(
    tiny_runs: TinyRuns, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_runs.pretrained)
    assert isinstance(model, MaskedAutoencoder)
    plans = plan_graphs(model, None)[:1]
    material = Material(
        plans=plans,
        cases=make_cases(model.config, plans[0]),
        image_cases=[],
        calibration=[],
        folder=tmp_path,
        draft=lambda *_: None,  # type: ignore[arg-type]
        progress=lambda _: None,
    )
    full = Variant("fp32", {"encoder": GraphFile(tiny_bundle.graph_file("encoder"))})
    monkeypatch.setattr(export.verify, "KEPT_IN_HALF", replace(export.verify.KEPT_IN_HALF, relative=1e-5))
    with pytest.raises(ParityError, match=r"encoder fp32: .*; nothing was written; leave out --storage half"):
        make_kept_in_half(material, full)
