"""fp32 graphs that keep their matrices in half precision: half the file, and the same arithmetic.

A matrix becomes an array of float16 and a Cast to float32. Engines compute a Cast of a constant when they load the
graph, so what they run is the fp32 graph with rounded weights. Vectors (biases, norms) stay float32: they are few.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from export.errors import ExportError
from export.onnx import SMALL_BYTES, GraphFile, write_model

_MAX_LOSS: Final = 2.0**-10  # of a matrix' norm; rounding to half's 11 bits loses about 2^-12 of it


def keep_in_half(source: GraphFile, path: Path) -> GraphFile:
    """Write the fp32 graph `source` to `path`, with its matrices of 1 KiB and more in half.

    ExportError for a weight beyond half's range, OSError if the disk does not take it.
    """
    model = ir.external_data.load_to_model(ir.load(source.path))
    casts = []
    for name, value in list(model.graph.initializers.items()):
        weight = value.const_value
        if weight is None or weight.dtype != ir.DataType.FLOAT or len(weight.shape) < 2 or weight.nbytes < SMALL_BYTES:
            continue
        half = _rounded(weight.numpy(), f"{name} of {source.path.name}")
        if half is not None:
            casts.append(_replace(model.graph, value, half))
    model.graph.insert_before(model.graph[0], casts)
    file = write_model(model, path)
    onnx.checker.check_model(file.path, full_check=True)
    return file


def _rounded(weight: NDArray[Any], name: str) -> NDArray[np.float16] | None:
    """`weight` in half, or None where too little of it would be left.

    Half's numbers below 6e-5 are subnormal: they lie 6e-8 apart, however small they are. A few of them are in every
    matrix and lose nothing that counts. One that lies among them as a whole, such as a patch embedding that is small
    before it is divided by 255 std, stays float32.
    """
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    if not np.isfinite(half).all():
        raise ExportError(
            f"{name} reaches {np.abs(weight).max():.3g}, and half precision ends at {np.finfo(np.float16).max:.0f}; "
            "leave out --storage half"
        )
    return half if _norm(half - weight) <= _MAX_LOSS * _norm(weight) else None


def _norm(array: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(array, dtype=np.float64).sum()))


def _replace(graph: ir.Graph, value: ir.Value, half: NDArray[np.float16]) -> ir.Node:
    """Put `half` among the initializers in the place of `value`, whose name and consumers go to the Cast."""
    name = f"{value.name}.half"
    kept = ir.Value(name=name, const_value=ir.tensor(half, name=name))
    graph.register_initializer(kept)
    cast = ir.Node("", "Cast", [kept], [ir.AttrInt64("to", ir.DataType.FLOAT)], num_outputs=1, name=f"{name}.cast")
    value.replace_all_uses_with(cast.outputs[0])
    assert value.name is not None
    del graph.initializers[value.name]
    cast.outputs[0].name = value.name
    return cast
