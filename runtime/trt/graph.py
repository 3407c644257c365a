"""Whether TensorRT can read a bundle's ONNX graph, said before minutes of building and in words that help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bundle.errors import RuntimeUnavailable
from runtime.trt.libraries import INSTALL

if TYPE_CHECKING:
    import onnx

_WANTED = "TensorRT multiplies int8 around 0 alone; use precision fp16"


def check_readable(file: Path) -> None:
    """RuntimeUnavailable if `file` is no graph, computes with bytes, or is quantized in a way that TensorRT does not
    know. Weights that lie beside it are not looked at.
    """
    try:
        import onnx
    except ImportError as e:
        raise RuntimeUnavailable(f"onnx, which reads graphs for TensorRT, is not installed; {INSTALL}") from e
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except Exception as e:  # protobuf's DecodeError, which is no part of onnx's interface
        raise RuntimeUnavailable(f"{file} cannot be read: {e}; export the bundle again") from e
    _check_bytes(file, graph)
    _check_quantization(file, graph)


def _check_bytes(file: Path, graph: onnx.GraphProto) -> None:
    """TensorRT takes uint8 as inputs of a network and wants them cast before anything else: DataType.UINT8."""
    from onnx import TensorProto

    pixels = {tensor.name for tensor in graph.input if tensor.type.tensor_type.elem_type == TensorProto.UINT8}
    for node in graph.node:
        for name in pixels.intersection(node.input):
            if node.op_type != "Cast":
                raise RuntimeUnavailable(
                    f"{file}: {node.op_type} takes {name} as bytes, and TensorRT casts bytes alone; "
                    f"export the bundle again"
                )


def _check_quantization(file: Path, graph: onnx.GraphProto) -> None:
    """TensorRT multiplies int8 around zero; graphs made for CPUs often have uint8 activations around another point."""
    from onnx import TensorProto, numpy_helper

    points = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        without_point = node.op_type == "QuantizeLinear" and len(node.input) < 3  # which means uint8
        if without_point or node.op_type == "DynamicQuantizeLinear":
            raise RuntimeUnavailable(f"{file}: {node.op_type} gives uint8, and {_WANTED}")
    for point in points:
        tensor = known.get(point)
        if tensor is None or tensor.data_type != TensorProto.INT8 or numpy_helper.to_array(tensor).any():
            raise RuntimeUnavailable(f"{file} is quantized to uint8 or around another point than 0, and {_WANTED}")
