"""`golden.npz`: one call of every graph, with what torch made of it: "<graph>.in.<name>" and "<graph>.out.<name>"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.arrays import read_npz
from bundle.errors import BundleError
from bundle.manifest import GraphSpec, Manifest, TensorSpec


def read_golden(file: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """BundleError naming the file and the first array that is missing or not what the manifest's graphs take."""
    try:
        arrays = read_npz(file)
    except ValueError as e:
        raise BundleError(f"{file}: cannot be read: {e}; export the bundle again") from e
    fault = next(golden_faults(arrays, manifest), None)
    if fault is not None:
        raise BundleError(f"{file}: {fault}; export the bundle again")
    return arrays


def golden_faults(arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> Iterator[str]:
    """All that is wrong with the arrays, in words: each graph's inputs and outputs must be there, of the manifest's
    dtypes and shapes, of one N and one K, and finite.
    """
    for graph, spec in manifest.graphs.items():
        axes: dict[str, int] = {}
        for name, tensor in _named(graph, spec):
            if name not in arrays:
                yield f"it lacks {name}"
                continue
            array = arrays[name]
            if array.dtype != tensor.dtype or not _fits(tensor, array.shape, axes):
                sizes = f" with {', '.join(f'{axis} = {size}' for axis, size in axes.items())}" if axes else ""
                wanted = f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]{sizes}"
                yield f"{name} is {array.dtype} {list(array.shape)}, and should be {wanted}"
            elif not np.isfinite(array).all():
                yield f"{name} has values that are not finite"


def _named(graph: str, spec: GraphSpec) -> Iterator[tuple[str, TensorSpec]]:
    yield from ((f"{graph}.in.{tensor.name}", tensor) for tensor in spec.inputs)
    yield from ((f"{graph}.out.{tensor.name}", tensor) for tensor in spec.outputs)


def _fits(tensor: TensorSpec, shape: tuple[int, ...], axes: dict[str, int]) -> bool:
    """Whether `shape` is the tensor's; an axis whose name is met for the first time takes the size it is met with."""
    if len(shape) != len(tensor.shape):
        return False
    for axis, size in zip(tensor.shape, shape, strict=True):
        if isinstance(axis, str):
            name = axis.removeprefix("1+")
            num = size - (name != axis)
            if num < 1 or axes.setdefault(name, num) != num:
                return False
        elif size != axis:
            return False
    return True
