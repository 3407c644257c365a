"""Parts as bulk.embed writes them, without images, an engine or Ray.

Letters: N rows, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bulk.index_recall import unit
from bulk.parts import Embedded, encode_part, part_name, part_schema
from bulk.pieces import ColumnType, Scalar
from bundle.vectors import VectorSpec

D = 16
COLUMNS: Mapping[str, ColumnType] = {"label": "string", "year": "int64", "score": "double", "sharp": "bool"}


def spec(**changes: Any) -> VectorSpec:
    told = {
        "bundle": "tiny", "digest": "a" * 64, "precision": "fp32", "pooling": "mean", "normalize": True, "keep": 1.0,
        "dim": D, "dtype": "float32",
    }  # fmt: skip
    return VectorSpec(**(told | changes))


def clustered(num_rows: int, dim: int = D, *, seed: int = 0, clusters: int = 20) -> NDArray[np.float32]:
    """Vectors [N, D] of length 1, around some centres that all lean the same way, as those of an encoder do."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim)) + np.ones(dim)
    vectors = centres[rng.integers(0, clusters, num_rows)] + 0.3 * rng.normal(size=(num_rows, dim))
    return unit(vectors.astype(np.float32))


def row(name: str, vector: NDArray[np.float32] | None, *, columns: Mapping[str, Scalar] | None = None) -> Embedded:
    """vector: None for an image that could not be read."""
    number = int(sha256(name.encode()).hexdigest()[:4], 16)
    made: Mapping[str, Scalar] = {
        "label": f"class {number % 5}", "year": 2000 + number % 25, "score": number / 65536, "sharp": number % 2 == 0,
    }  # fmt: skip
    failed = "not an image" if vector is None else None
    return Embedded(name, None if failed else sha256(name.encode()).hexdigest(), vector, failed, columns or made)


def write_part(
    folder: Path,
    number: int,
    rows: Sequence[Embedded],
    *,
    kind: VectorSpec | None = None,
    columns: Mapping[str, ColumnType] = COLUMNS,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / part_name(number)
    path.write_bytes(encode_part(rows, part_schema(kind or spec(), columns)))
    return path


def write_parts(folder: Path, vectors: NDArray[np.float32], *, per_part: int = 100, first: int = 0) -> Path:
    """Parts from number `first` on, of rows `NUMBER.jpg`, numbered through."""
    for start in range(0, len(vectors), per_part):
        number = first + start // per_part
        some = vectors[start : start + per_part]
        write_part(folder, number, [row(f"{number * per_part + i:06d}.jpg", v) for i, v in enumerate(some)])
    return folder
