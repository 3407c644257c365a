"""The exported bundle in other variants, and damaged ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from bundle.manifest import Parity
from bundle.masking import all_ids
from bundle.store import Bundle, write_bundle
from runtime.base import Arrays

Quantization = Literal["dynamic", "static"]
Edit = Callable[[onnx.ModelProto], None]


def images(n: int, seed: int = 0) -> Arrays:
    """The encoder's inputs: noise, all patches."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return {"images": pixels, "ids_keep": all_ids(n, 16)}


def edited(bundle: Bundle, folder: Path, graph: str, edit: Edit) -> Bundle:
    """A copy whose graph was changed behind the manifest's back, as a build of one's own may be."""
    copy = Path(shutil.copytree(bundle.path, folder / "copy"))
    model = onnx.load(copy / f"{graph}.onnx")
    edit(model)
    onnx.save(model, copy / f"{graph}.onnx")
    return replace(bundle, path=copy)


@pytest.fixture(scope="session", params=["dynamic", "static"])
def int8_bundle(
    request: pytest.FixtureRequest, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The encoder in int8 too; its tolerance is what one may expect of random weights."""
    folder = tmp_path_factory.mktemp(request.param)
    _quantize(tiny_bundle.path / "encoder.onnx", folder / "int8.onnx", request.param)
    fields: dict[str, Any] = tiny_bundle.manifest.model_dump(exclude={"files", "digest"})
    fields["graphs"]["encoder"] |= {
        "files": {"fp32": "encoder.onnx", "int8": "encoder.int8.onnx"}, "quantization": request.param
    }  # fmt: skip
    fields["parity"]["encoder.int8"] = Parity(max_abs=0.1, cosine_min=0.99, tolerance=1.0, min_cosine=0.99).model_dump()
    files: dict[str, Path | bytes] = {name: tiny_bundle.path / name for name in tiny_bundle.manifest.files}
    return write_bundle(folder / "bundle", fields, {**files, "encoder.int8.onnx": folder / "int8.onnx"})


def _quantize(source: Path, target: Path, quantization: Quantization) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Noise(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.batches = iter([images(4, seed) for seed in range(4)])

        def get_next(self) -> Arrays | None:
            return next(self.batches, None)

    model = onnx.load(source)
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]
    if quantization == "dynamic":
        quantize_dynamic(source, target, nodes_to_quantize=nodes, per_channel=True)
    else:
        quantize_static(
            source, target, Noise(), nodes_to_quantize=nodes, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
