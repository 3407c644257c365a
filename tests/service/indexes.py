"""Small indexes, written with LanceDB itself as the contract of bundle/vectors.py says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bundle.masking import all_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from bundle.vectors import INDEX_TABLE, VECTORS_KEY, IndexInfo, VectorSpec
from runtime import Arrays, Runtime
from runtime.fake import FakeRuntime


def spec_of(bundle: Bundle, **fields: Any) -> VectorSpec:
    """As of vectors that were made with the bundle."""
    manifest = bundle.manifest
    told: dict[str, Any] = {
        "bundle": manifest.name, "digest": manifest.digest, "precision": "fp32", "pooling": "mean", "normalize": True,
        "keep": 1, "dim": manifest.model.dim, "dtype": "float32",
    }  # fmt: skip
    return VectorSpec(**told | fields)


def embed(bundle: Bundle, images: Sequence[bytes], runtime: Runtime | None = None) -> NDArray[np.float32]:
    """[N, D] of length 1, without a service, by the fake runtime or another."""
    batch = np.stack([preprocess(image, bundle.manifest.preprocess) for image in images])
    inputs: Arrays = {"images": batch, "ids_keep": all_ids(len(images), bundle.manifest.model.num_patches)}
    mean = (runtime or FakeRuntime(bundle)).run("encoder", inputs)["mean"]  # [N, D]
    vectors: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return vectors


def rows(
    vectors: NDArray[np.float32],
    spec: VectorSpec,
    columns: Mapping[str, Any] | None = None,
    *,
    first: int = 0,
    paths: Sequence[str] | None = None,
) -> pa.Table:
    """Rows of these paths, or called 000.png, 001.png, ... from `first` on."""
    numbers = range(first, first + len(vectors))
    flat = pa.array(vectors.astype(np.float32).ravel())
    table = pa.table(
        {
            "path": paths or [f"{i:03}.png" for i in numbers],
            "sha256": [f"{i:064x}" for i in numbers],
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            **(columns or {}),
        }
    )
    return table.replace_schema_metadata({VECTORS_KEY: IndexInfo(vectors=spec).model_dump_json()})


def write_index(folder: Path, table: pa.Table) -> Path:
    """In place of an index that is there, as a new version of it."""
    lancedb.connect(folder).create_table(INDEX_TABLE, table, mode="overwrite")
    return folder


def add_rows(folder: Path, table: pa.Table) -> None:
    lancedb.connect(folder).open_table(INDEX_TABLE).add(table)
