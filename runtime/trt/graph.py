"""The bundle's ONNX graphs as TensorRT reads them.

The graphs gather and reorder pixels while they are still bytes, which is the cheapest on a CPU. TensorRT takes uint8 as
inputs and outputs of a network alone and wants them cast before anything else (its documentation of DataType.UINT8). So
a Cast is put in front: the same numbers, since all that stood before the first one moves pixels about.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bundle.errors import RuntimeUnavailable
from runtime.trt.libraries import INSTALL

if TYPE_CHECKING:
    import onnx

_MOVES = frozenset(
    {"Flatten", "Gather", "GatherND", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
_PAD_WITHOUT_VALUE = 2  # inputs: it fills with 0, of whatever dtype it is given
_ASKS = frozenset({"Shape", "Size"})  # of the shape alone, whatever the dtype
_WANTED = "TensorRT multiplies int8 around 0 alone; use precision fp16"


def read_graph(file: Path) -> bytes:
    """`file` with its uint8 inputs cast at once. Weights that lie beside it stay there.

    RuntimeUnavailable if TensorRT cannot run it whatever is done: it computes with bytes, or is quantized in a way that
    TensorRT does not know.
    """
    try:
        import onnx
    except ImportError as e:
        raise RuntimeUnavailable(f"onnx, which reads graphs for TensorRT, is not installed; {INSTALL}") from e
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as e:  # protobuf's DecodeError, which is no part of onnx's interface
        raise RuntimeUnavailable(f"{file} cannot be read: {e}; export the bundle again") from e
    _check_quantization(file, model.graph)
    for tensor in model.graph.input:
        if tensor.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            _cast_at_once(file, model.graph, tensor.name)
    content: bytes = model.SerializeToString()
    return content


def _cast_at_once(file: Path, graph: onnx.GraphProto, name: str) -> None:
    """Put a Cast behind input `name`. Later ones, from that dtype to itself, are nothing to an engine."""
    from onnx import helper

    dtype = _dtype_after_moves(file, graph, name)
    cast = helper.make_node("Cast", [name], [f"{name}.cast"], to=dtype)
    for node in graph.node:
        for i, source in enumerate(node.input):
            if source == name:
                node.input[i] = cast.output[0]
    graph.node.insert(0, cast)


def _dtype_after_moves(file: Path, graph: onnx.GraphProto, name: str) -> int:
    """What the bytes of `name` are cast to in the end."""
    raw = {name}
    for node in graph.node:  # in the order they are computed in, as ONNX demands
        if not raw.intersection(node.input) or node.op_type in _ASKS:
            continue
        if node.op_type == "Cast":
            return int(node.attribute[0].i)
        if node.op_type not in _MOVES or (node.op_type == "Pad" and len(node.input) > _PAD_WITHOUT_VALUE):
            raise RuntimeUnavailable(f"{file}: {node.op_type} computes with uint8 {name}, which TensorRT cannot")
        raw.update(node.output)
    raise RuntimeUnavailable(f"{file}: {name} is never cast to floats, and TensorRT computes with nothing else")


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
