"""Graphs and calls held against the manifest, for every engine alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from bundle.errors import BundleError, InferenceError
from bundle.manifest import GraphName, GraphSpec, TensorSpec

Loaded = TypeVar("Loaded")

# What an engine says of a graph's inputs or outputs: name -> (NumPy's name of the dtype, shape). A size is a number
# where it is fixed, and a name or None where it varies.
Tensors = Mapping[str, tuple[str, tuple[int | str | None, ...]]]


def check_graph(name: str, spec: GraphSpec, inputs: Tensors, outputs: Tensors) -> None:
    """Hold a graph, as the engine read it, against the manifest, so that it fails when it is loaded and not in a call.

    `name`: the graph and its file, for the message. BundleError naming the first input or output that is missing, not
    known to the manifest, or of another dtype or shape. Where the engine does not know a fixed size, it is believed.
    """
    for kind, wanted, found in (("input", spec.inputs, inputs), ("output", spec.outputs, outputs)):
        fault = _difference(kind, {tensor.name: tensor for tensor in wanted}, found)
        if fault:
            raise BundleError(f"{name} is not the graph that the manifest describes: {fault}; export the bundle again")


def check_inputs(spec: GraphSpec, inputs: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """The size of every named axis, such as {"N": 8, "K": 49}.

    ValueError if the names, dtypes or shapes of the inputs are not those of `spec`, or if they disagree on an axis.
    """
    wanted = {tensor.name for tensor in spec.inputs}
    if wanted != set(inputs):
        raise ValueError(f"inputs must be {sorted(wanted)}, got {sorted(inputs)}")
    axes: dict[str, int] = {}
    for tensor in spec.inputs:
        array = inputs[tensor.name]
        if array.dtype != tensor.dtype or array.ndim != len(tensor.shape):
            raise ValueError(f"{tensor.name} must be {describe(tensor)}, got {array.dtype} {list(array.shape)}")
        for axis, size in zip(tensor.shape, array.shape, strict=True):
            name, expected = _resolve(axis, size, axes)
            if expected != size:
                raise ValueError(f"{tensor.name} must be {describe(tensor)}, got {list(array.shape)} with {axes}")
            if name is not None and size == 0:
                raise ValueError(f"{tensor.name} must not be empty, got {list(array.shape)}")
    return axes


def loaded(graphs: Mapping[GraphName, Loaded], graph: GraphName) -> Loaded:
    """What an engine holds for `graph`; InferenceError if it is closed, or the bundle has no such graph."""
    if graph not in graphs:
        raise InferenceError(f"{graph}: not loaded; there are {', '.join(graphs) or 'none, it is closed'}")
    return graphs[graph]


def wanted_outputs(spec: GraphSpec, wanted: Sequence[str] | None) -> list[TensorSpec]:
    """The graph's outputs that `wanted` names, in the manifest's order; None is all. ValueError for another name."""
    outputs = [tensor for tensor in spec.outputs if wanted is None or tensor.name in wanted]
    if wanted is not None and len(outputs) < len(set(wanted)):
        raise ValueError(f"outputs are {[tensor.name for tensor in spec.outputs]}, got {list(wanted)}")
    return outputs


def output_shape(tensor: TensorSpec, axes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape in numbers; `axes` as `check_inputs` gives them."""
    return tuple(_size(axis, axes) for axis in tensor.shape)


def describe(tensor: TensorSpec) -> str:
    return f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]"


def _difference(kind: str, wanted: Mapping[str, TensorSpec], found: Tensors) -> str:
    """The first one, in words; empty where there is none."""
    for name, tensor in wanted.items():
        if name not in found:
            return f"it lacks the {kind} {name!r}, and has {', '.join(map(repr, sorted(found))) or 'none'}"
        dtype, shape = found[name]
        if dtype != tensor.dtype or not _same_shape(shape, tensor.shape):
            axes = ", ".join("?" if axis is None else str(axis) for axis in shape)
            return f"its {kind} {name!r} is {dtype} [{axes}], and should be {describe(tensor)}"
    unknown = sorted(found.keys() - wanted.keys())
    return f"it has an unknown {kind} {unknown[0]!r}" if unknown else ""


def _same_shape(found: tuple[int | str | None, ...], wanted: tuple[int | str, ...]) -> bool:
    """An axis that varies must not be fixed in the graph: a graph of one image would fail every batch."""
    return len(found) == len(wanted) and all(
        not isinstance(size, int) or size == axis for size, axis in zip(found, wanted, strict=True)
    )


def _resolve(axis: int | str, size: int, axes: dict[str, int]) -> tuple[str | None, int]:
    """The axis's name and the size it should have; a name met for the first time takes the size it is met with."""
    if isinstance(axis, int):
        return None, axis
    name = axis.removeprefix("1+")
    axes.setdefault(name, size - 1 if axis != name else size)
    return name, _size(axis, axes)


def _size(axis: int | str, axes: Mapping[str, int]) -> int:
    if isinstance(axis, int):
        return axis
    name = axis.removeprefix("1+")
    return axes[name] + (axis != name)
