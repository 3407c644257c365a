"""int8: which products, in which way, and without a word."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from bundle.store import Bundle
from export.errors import ExportError
from export.onnx import GraphFile
from export.quantize import Quantization, quantize, weight_products
from runtime.agreement import cosines
from runtime.base import Arrays
from runtime.onnx import load_session

BLOCKS = 2


def calls(n: int = 4) -> list[Arrays]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return [{"images": images[i : i + 2], "ids_keep": np.tile(np.arange(16), (2, 1))} for i in range(0, n, 2)]


@pytest.fixture
def encoder(tiny_bundle: Bundle) -> GraphFile:
    return GraphFile(tiny_bundle.graph_file("encoder"))


@pytest.mark.parametrize(
    ("kind", "ops"),
    [
        # qkv, proj, fc1 and fc2 of every block; left are attention's two, and the patch embedding.
        ("dynamic", {"DynamicQuantizeLinear": 4 * BLOCKS, "MatMulInteger": 4 * BLOCKS, "MatMul": 2 * BLOCKS + 1}),
        ("static", {"QuantizeLinear": 4 * BLOCKS, "DequantizeLinear": 8 * BLOCKS, "MatMul": 6 * BLOCKS + 1}),
    ],
)
def test_the_products_with_weights_are_quantized_and_no_other(
    encoder: GraphFile, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: Quantization, ops: dict[str, int]
) -> None:
    file = quantize(kind, encoder, tmp_path / "encoder.int8.onnx", calls())
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.int8.onnx"]
    model = onnx.load(file.path)
    found = Counter(node.op_type for node in model.graph.node)
    assert {name: found[name] for name in ops} == ops
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    stored = [
        tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert sorted(tuple(tensor.dims) for tensor in stored) == sorted(
        [(32, 96), (32, 32), (32, 128), (128, 32)] * BLOCKS
    )
    scales = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer if tensor.name.endswith("_scale")}
    assert Counter(shape for shape in scales.values() if shape) == {(96,): 2, (32,): 4, (128,): 2}  # one per column


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_it_stays_close_and_is_the_same_every_time(encoder: GraphFile, tmp_path: Path, kind: Quantization) -> None:
    files = [quantize(kind, encoder, tmp_path / name, calls()) for name in ("a.onnx", "b.onnx")]
    assert files[0].path.read_bytes() == files[1].path.read_bytes()
    expected, actual = (load_session(file.path).run(["tokens"], calls()[0])[0] for file in (encoder, files[0]))
    assert 0.999 < cosines(actual, expected).min() < 0.9999999


def test_static_scales_are_those_of_the_calibration_images(encoder: GraphFile, tmp_path: Path) -> None:
    """The range of what enters the first block's qkv, taken with ONNX Runtime alone."""
    model = onnx.load(encoder.path)
    product = next(node for node in model.graph.node if node.name == weight_products(encoder.path)[0])
    model.graph.output.append(onnx.helper.make_tensor_value_info(product.input[0], TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "seen.onnx")
    session = load_session(tmp_path / "seen.onnx")
    seen = np.concatenate([session.run([product.input[0]], call)[0] for call in calls()])
    quantized = onnx.load(quantize("static", encoder, tmp_path / "int8.onnx", calls()).path).graph
    node = next(n for n in quantized.node if n.op_type == "QuantizeLinear" and n.input[0] == product.input[0])
    values = {t.name: onnx.numpy_helper.to_array(t) for t in quantized.initializer}
    assert values[node.input[1]] == pytest.approx(np.abs(seen).max() / 127, rel=1e-5)
    point = values[node.input[2]]
    assert point.dtype == np.int8
    assert point.item() == 0  # all that TensorRT multiplies


def test_what_cannot_be_quantized_is_said_in_a_line(tiny_bundle: Bundle, encoder: GraphFile, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"head\.onnx multiplies with no weights"):
        quantize("dynamic", GraphFile(tiny_bundle.graph_file("head")), tmp_path / "head.int8.onnx")
    with pytest.raises(ExportError, match=r"encoder\.onnx cannot be quantized \(static\): "):
        quantize("static", encoder, tmp_path / "encoder.int8.onnx", [])
    assert list(tmp_path.iterdir()) == []
