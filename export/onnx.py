"""From a torch module to a checked ONNX file, and the same bytes for the same weights."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn
from torch.export import Dim

from bundle.manifest import GraphSpec, TensorSpec
from export.blocks import take_rows_onnx
from export.errors import ExportError
from export.external import external_files

OPSET = 20  # the first with Gelu as one operator; every supported runtime reads it
MAX_FILE_BYTES: Final = 2**31 - 2**20  # protobuf's limit for one message, less some room for the graph itself
SMALL_BYTES = 1024  # what is smaller stays in the graph: axes and shapes, which a reader wants to see


@dataclass(frozen=True)
class GraphFile:
    """A graph on disk. `weights`: the file beside it that holds its weights, where one file does not take both."""

    path: Path
    weights: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Name -> path, as a bundle wants them."""
        return {file.name: file for file in (self.path, self.weights) if file is not None}

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files.values())


def write_onnx(module: nn.Module, example: Sequence[Tensor], spec: GraphSpec, path: Path) -> GraphFile:
    """Trace `module` on `example`, one tensor per input of `spec`, and write it to `path`; the axes that `spec` names
    stay free. Weights beyond MAX_FILE_BYTES go to one file beside it.

    ExportError if torch cannot export it or the result is not valid ONNX, OSError if the disk does not take it.
    """
    dims: dict[str, Any] = {}
    shapes = tuple(_free_axes(tensor, dims) for tensor in spec.inputs)
    try:
        with _quiet(), torch.inference_mode():
            program = torch.onnx.export(
                module.eval(),
                tuple(example),
                dynamo=True,
                opset_version=spec.opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=shapes,
                custom_translation_table={torch.ops.maeve.take_rows.default: take_rows_onnx},
                verbose=False,
            )
        assert program is not None
        _fix_reshapes(program.model)
        file = write_model(program.model, path)
        onnx.checker.check_model(path, full_check=True)
    except torch.onnx.OnnxExporterError as e:
        raise ExportError(f"torch cannot export {type(module).__name__}: {e}") from e
    except onnx.checker.ValidationError as e:
        raise ExportError(f"torch exported {type(module).__name__} to an invalid graph: {e}") from e
    return file


def _free_axes(tensor: TensorSpec, dims: dict[str, Any]) -> dict[int, Any]:
    """{axis: torch's symbol}; the same name is the same symbol in all inputs."""
    free: dict[int, Any] = {}
    for axis, size in enumerate(tensor.shape):
        if isinstance(size, str):
            name = size.removeprefix("1+")
            dim = dims.setdefault(name, Dim(name))
            free[axis] = dim if name == size else 1 + dim
    return free


def _fix_reshapes(model: ir.Model) -> None:
    """Give every Reshape a constant target where it computes one from the sizes of its inputs.

    0 copies an axis from the input, -1 stands for what is left over: no engine has to compute a shape at every call.
    """
    for node in model.graph:
        if node.op_type != "Reshape":
            continue
        source, target = node.inputs[0], node.inputs[1]
        shape = node.outputs[0].shape
        if source is None or target is None or target.is_initializer() or source.shape is None or shape is None:
            continue
        sizes = [_target_size(axis, size, source.shape) for axis, size in enumerate(shape)]
        if sizes.count(-1) <= 1:
            name = f"{node.outputs[0].name}_shape"
            constant = ir.Value(name=name, const_value=ir.tensor(sizes, dtype=ir.DataType.INT64, name=name))
            model.graph.register_initializer(constant)
            node.replace_input_with(1, constant)
            node.attributes.pop("allowzero", None)  # torch sets it; 0 would then be an empty axis
    RemoveUnusedNodesPass()(model)


def _target_size(axis: int, size: int | ir.SymbolicDim, source: ir.Shape) -> int:
    if isinstance(size, int):
        return size
    return 0 if axis < len(source) and source[axis] == size else -1


def write_model(model: ir.Model, path: Path) -> GraphFile:
    """Write `model` to `path`, and weights beyond MAX_FILE_BYTES to one file beside it. OSError as the disk has it."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    weights = None
    if size > MAX_FILE_BYTES:
        weights = path.with_name(f"{path.name}.weights")
        ir.external_data.unload_from_model(model, path.parent, weights.name, size_threshold_bytes=SMALL_BYTES)
    proto = ir.to_proto(model)
    strip(proto)
    assert external_files(proto) == ({weights.name} if weights else set()), "a bundle would lack a file of weights"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return GraphFile(path, weights)


def strip(model: onnx.ModelProto) -> None:
    """Drop what no runtime reads: stack traces with this machine's paths, names of torch's own nodes, inner shapes."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter about what is none of the user's business: torchvision is absent, an axis is named twice."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
