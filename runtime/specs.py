"""Checks of a call's inputs against the manifest, for every engine alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from bundle.manifest import GraphSpec, TensorSpec


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


def output_shape(tensor: TensorSpec, axes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape in numbers; `axes` as `check_inputs` gives them."""
    return tuple(_size(axis, axes) for axis in tensor.shape)


def describe(tensor: TensorSpec) -> str:
    return f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]"


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
