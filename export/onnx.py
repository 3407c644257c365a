"""From a torch module to one self-contained ONNX file, checked, and the same bytes for the same weights."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from bundle.manifest import GraphSpec, TensorSpec
from export.errors import ExportError

OPSET = 20  # the first with Gelu as one operator; every supported runtime reads it
_MAX_BYTES = 2**31 - 2**20  # protobuf's limit for one message, less some room for the graph itself


def to_onnx(module: nn.Module, example: Sequence[Tensor], spec: GraphSpec) -> bytes:
    """Trace `module` on `example`, one tensor per input of `spec`; the axes that `spec` names stay free.

    ExportError if the weights do not fit into one file or the result is not valid ONNX.
    """
    size = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    if size > _MAX_BYTES:
        raise ExportError(f"{size / 2**30:.1f} GB of weights do not fit into an ONNX file, which ends at 2 GB")
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
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        _strip(model)
        onnx.checker.check_model(model, full_check=True)
    except torch.onnx.OnnxExporterError as e:
        raise ExportError(f"torch cannot export {type(module).__name__}: {e}") from e
    except onnx.checker.ValidationError as e:
        raise ExportError(f"torch exported {type(module).__name__} to an invalid graph: {e}") from e
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _free_axes(tensor: TensorSpec, dims: dict[str, Any]) -> dict[int, Any]:
    """{axis: torch's symbol}; the same name is the same symbol in all inputs."""
    free: dict[int, Any] = {}
    for axis, size in enumerate(tensor.shape):
        if isinstance(size, str):
            name = size.removeprefix("1+")
            dim = dims.setdefault(name, Dim(name))
            free[axis] = dim if name == size else 1 + dim
    return free


def _strip(model: onnx.ModelProto) -> None:
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
