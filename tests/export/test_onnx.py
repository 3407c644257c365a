"""Graphs whose weights one file does not take: the limit is lowered until a tiny network passes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import export.onnx
from bundle.errors import BundleError
from bundle.store import Bundle, load_bundle
from export.__main__ import summary
from export.config import ExportConfig
from export.onnx import GraphFile
from export.pipeline import export_run
from export.quantize import Quantization, quantize
from runtime.onnx import OnnxRuntime
from tests.conftest import TinyRuns


@pytest.fixture(scope="module")
def large(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The decoder stays below the limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.onnx, "MAX_FILE_BYTES", 100_000)
        out = tmp_path_factory.mktemp("large") / "bundle"
        return export_run(ExportConfig(run=tiny_runs.pretrained, out=out, precision="fp32"))


def test_large_weights_lie_in_one_file_beside_their_graph(large: Bundle, tiny_bundle: Bundle) -> None:
    graphs = large.manifest.graphs
    assert graphs["encoder"].weights == {"fp32": "encoder.onnx.weights"}
    assert graphs["decoder"].weights == {}
    assert sorted(p.name for p in large.path.iterdir()) == [
        "decoder.onnx", "encoder.onnx", "encoder.onnx.weights", "golden.npz", "manifest.json",
    ]  # fmt: skip
    whole = tiny_bundle.graph_file("encoder").stat().st_size
    assert large.graph_file("encoder").stat().st_size < whole / 3
    assert (large.path / "encoder.onnx.weights").stat().st_size > whole / 2
    onnx.checker.check_model(large.graph_file("encoder"), full_check=True)
    assert summary(large).splitlines()[3].split()[:4] == ["encoder", "fp32", "encoder.onnx", "0.1"]


def test_they_compute_the_same(large: Bundle, tiny_bundle: Bundle) -> None:
    golden = tiny_bundle.golden()
    inputs = {name: golden[f"encoder.in.{name}"] for name in ("images", "ids_keep")}
    expected = OnnxRuntime(tiny_bundle, lanes=1).run("encoder", inputs)
    for name, value in OnnxRuntime(large, lanes=1).run("encoder", inputs).items():
        np.testing.assert_array_equal(value, expected[name])


def test_openvino_finds_them(large: Bundle) -> None:
    openvino = pytest.importorskip("openvino")
    golden = large.golden()
    compiled = openvino.Core().compile_model(large.graph_file("encoder"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled({name: golden[f"encoder.in.{name}"] for name in ("images", "ids_keep")})
    np.testing.assert_allclose(results["tokens"], golden["encoder.out.tokens"], atol=2e-5)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_int8_made_of_them_is_that_of_one_file(
    large: Bundle, tiny_bundle: Bundle, tmp_path: Path, kind: Quantization
) -> None:
    golden = large.golden()
    calls = [{name: golden[f"encoder.in.{name}"] for name in ("images", "ids_keep")}]
    one, two = (
        quantize(kind, GraphFile(bundle.graph_file("encoder")), tmp_path / f"{i}.onnx", calls)
        for i, bundle in enumerate((tiny_bundle, large))
    )
    assert one.path.read_bytes() == two.path.read_bytes()


def test_a_flipped_bit_among_them_is_noticed(large: Bundle) -> None:
    file = large.path / "encoder.onnx.weights"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
        with pytest.raises(BundleError, match=r"encoder\.onnx\.weights was altered or damaged"):
            load_bundle(large.path)
    finally:
        file.write_bytes(content)


def test_a_bundle_without_them_is_no_bundle(large: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(large.path, tmp_path / "copy"))
    (copy / "encoder.onnx.weights").unlink()
    with pytest.raises(BundleError, match=r"cannot read encoder\.onnx\.weights"):
        load_bundle(copy)
