"""A part of the output: a Parquet file that any reader of Parquet takes as it is.

Columns: `path` string; `sha256` string, of the image's bytes in hex, null where they could not be read; `embedding`
fixed_size_list<float32 or float16>[D], null where there is an error; `error` string, null where there is none; then
what is carried from the source. The schema's metadata holds the VectorSpec under VECTORS_KEY; the file's holds a digest
of the rows under CONTENT_KEY, and under DIRECTED_KEY how many of them have a vector with a direction.

Letters: N rows of a part, D width of a vector.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bulk.pieces import ColumnType, Scalar
from bundle.vectors import VECTORS_KEY, VectorSpec

CONTENT_KEY = b"maeve.content"
DIRECTED_KEY = b"maeve.directed"
PART_NAME = re.compile(r"^part-(\d{6,})\.parquet$")
_GROUP_ROWS = 8192  # of a shard, which is one part however large, or of --rows-per-part; others have one row group
_TYPES = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True, eq=False)
class Embedded:
    """A row of a part. vector: float32 [D], already scaled as the spec says; None where there is an error."""

    path: str
    sha256: str | None
    vector: NDArray[np.float32] | None
    error: str | None
    columns: Mapping[str, Scalar] = field(default_factory=dict)


class PartInfo(NamedTuple):
    """What a part's footer tells."""

    num_rows: int
    num_errors: int


def part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def part_schema(spec: VectorSpec, columns: Mapping[str, ColumnType]) -> pa.Schema:
    """columns: those carried from the source."""
    fields: list[tuple[str, Any]] = [
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("embedding", pa.list_(pa.float16() if spec.dtype == "float16" else pa.float32(), spec.dim)),
        ("error", pa.string()),
        *((name, _TYPES[kind]) for name, kind in columns.items()),
    ]
    return pa.schema(fields, metadata={VECTORS_KEY: spec.model_dump_json().encode()})


def encode_part(rows: Iterable[Embedded], schema: pa.Schema) -> bytes:
    """The file's content; the same rows give the same bytes. No more than a row group of `rows` is held at once."""
    carried = schema.names[4:]
    buffer, num_directed, left = io.BytesIO(), 0, iter(rows)
    # Neither a dictionary nor statistics tell anything of hashes and of numbers that are all different.
    with pq.ParquetWriter(
        buffer, schema, compression="zstd", use_dictionary=["error", *carried],
        write_statistics=["path", "error", *carried],
    ) as file:  # fmt: skip
        while group := list(islice(left, _GROUP_ROWS)):
            vectors = _values(group, schema.field("embedding").type)
            file.write_table(_table(group, vectors, schema))
            num_directed += int(np.count_nonzero(has_direction(vectors.astype(np.float32))))
        # The footer by itself would not tell a vector from another: of those there are no statistics.
        with buffer.getbuffer() as written:
            content = sha256(written).hexdigest().encode()
        file.add_key_value_metadata({CONTENT_KEY: content, DIRECTED_KEY: str(num_directed).encode()})
    return buffer.getvalue()


def has_direction(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """bool [N] of vectors [N, D]: False for zeros, for what is not finite, and for what float32 cannot measure."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", vectors, vectors)  # [N]
    good: NDArray[np.bool_] = (squares > 0) & np.isfinite(squares)
    return good


def part_info(file: BinaryIO) -> PartInfo:
    """By the footer alone."""
    metadata = pq.ParquetFile(file).metadata
    column = metadata.schema.names.index("error")
    groups = [group for i in range(metadata.num_row_groups) if (group := metadata.row_group(i)).num_rows]
    num_null = sum(group.column(column).statistics.null_count for group in groups)
    return PartInfo(metadata.num_rows, metadata.num_rows - num_null)


def part_errors(file: BinaryIO) -> list[tuple[str, str]]:
    """(path, error) of its rows that have one, in order."""
    table = pq.ParquetFile(file).read(columns=["path", "error"])
    found = table.filter(table["error"].is_valid())
    return list(zip(found["path"].to_pylist(), found["error"].to_pylist(), strict=True))


def good_rows(file: BinaryIO) -> dict[str, Embedded]:
    """Its rows that have a vector, by path, in order."""
    table = pq.ParquetFile(file).read()
    good = table.filter(table["error"].is_null())
    width = good.schema.field("embedding").type.list_size
    values = good["embedding"].combine_chunks().flatten().to_numpy().astype(np.float32)
    vectors = values.reshape(-1, width)  # [N, D]
    rows = good.drop_columns(["embedding", "error"]).to_pylist()
    return {
        row["path"]: Embedded(row.pop("path"), row.pop("sha256"), vector, None, row)
        for row, vector in zip(rows, vectors, strict=True)
    }


def _table(rows: Sequence[Embedded], vectors: NDArray[Any], schema: pa.Schema) -> pa.Table:
    """vectors: [N, D] as _values gives them."""
    arrays = [
        pa.array([row.path for row in rows], pa.string()),
        pa.array([row.sha256 for row in rows], pa.string()),
        _vectors(rows, vectors, schema.field("embedding").type),
        pa.array([row.error for row in rows], pa.string()),
        *(pa.array([row.columns.get(name) for row in rows], schema.field(name).type) for name in schema.names[4:]),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _values(rows: Sequence[Embedded], kind: pa.FixedSizeListType) -> NDArray[Any]:
    """[N, D] as they are stored; zeros where there is an error."""
    values: NDArray[Any] = np.zeros((len(rows), kind.list_size), kind.value_type.to_pandas_dtype())  # [N, D]
    for row, target in zip(rows, values, strict=True):
        if row.vector is not None:
            target[:] = row.vector
    return values


def _vectors(rows: Sequence[Embedded], values: NDArray[Any], kind: pa.FixedSizeListType) -> pa.Array:
    missing = pa.array([row.vector is None for row in rows], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind, mask=missing)
