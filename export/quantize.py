"""int8 from an fp32 graph: the products with weights, and nothing else, in two ways.

"dynamic" measures the range of what enters a product at every call; "static" took it from calibration images and has it
in the graph, as QuantizeLinear and DequantizeLinear. Weights are int8 around 0, a scale per column.

Left in fp32 are the products of activations with activations, in attention, which lose the most; the patch embedding, a
few hundredths of the work, whose error every layer behind it would see; and the last layer of a classifier, a Gemm.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import onnx
from onnxruntime import quantization as ort_quantization
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType

from export.errors import ExportError
from export.onnx import GraphFile, strip
from runtime.base import Arrays

Quantization = Literal["dynamic", "static"]


def quantize(kind: Quantization, source: GraphFile, path: Path, calibration: Sequence[Arrays] = ()) -> GraphFile:
    """Write the fp32 graph `source` in int8 to `path`. calibration: the inputs of some calls, for "static".

    ExportError if the quantizer cannot, OSError if the disk does not take it.
    """
    products = weight_products(source.path)
    if not products:
        raise ExportError(f"{source.path.name} multiplies with no weights, so there is nothing to quantize")
    draft = path.with_name(f"{path.name}.draft")
    try:
        with _quiet():
            if kind == "dynamic":
                _dynamic(source.path, draft, products)
            else:
                _static(source.path, draft, products, calibration)
        model = onnx.load(draft)
        strip(model)
        for tensor in model.graph.initializer:  # all are in the model now, wherever the source had them
            tensor.ClearField("data_location")
        path.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(path, full_check=True)
    except OSError:
        raise
    except Exception as e:  # the quantizer raises many kinds, and ONNX Runtime's own share no base class
        raise ExportError(f"{source.path.name} cannot be quantized ({kind}): {e}") from e
    finally:
        draft.unlink(missing_ok=True)
    return GraphFile(path)


def weight_products(path: Path) -> list[str]:
    """The names of the products that are quantized."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    products = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    takes_pixels = any(tensor.type.tensor_type.elem_type == onnx.TensorProto.UINT8 for tensor in graph.input)
    return products[1:] if takes_pixels else products  # in the order they are computed in: the embedding is the first


def _dynamic(source: Path, out: Path, products: list[str]) -> None:
    ort_quantization.quantize_dynamic(
        source,
        out,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=products,
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


def _static(source: Path, out: Path, products: list[str], calibration: Sequence[Arrays]) -> None:
    ort_quantization.quantize_static(
        source,
        out,
        _Calls(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=products,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={
            # Around 0, which is all that TensorRT multiplies; on CPUs it is as fast as any other range.
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            # A product's sum is rounded where it enters the next one, not before.
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        },
    )


class _Calls(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, calls: Sequence[Arrays]) -> None:
        self._calls = iter(calls)

    def get_next(self) -> Arrays | None:
        return next(self._calls, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer recommends, on stdout and to the root logger, what was considered already."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
