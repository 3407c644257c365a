"""Parquet as a source: which column holds the images, which are carried, and how its rows are cut into pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bulk.columns import Columns
from bulk.pieces import ColumnType, ReadOptions
from bundle.errors import SourceError
from sources.parquet import read_footer

_LISTS = ("image_path", "path", "url", "file_name", "image")  # columns that name files, in this order
_THREADS = 16  # a footer is two or three requests to a store


class ImageColumn(NamedTuple):
    """holds: `bytes`, as binary or a struct with bytes; `files`: paths or URLs."""

    name: str
    holds: Literal["bytes", "files"]


@dataclass(frozen=True)
class Table:
    """A Parquet file. group_rows: rows of each row group; num_bytes: of the image column, as stored."""

    file: str
    image: ImageColumn
    columns: Columns
    group_rows: tuple[int, ...]
    num_bytes: int

    @property
    def num_rows(self) -> int:
        return sum(self.group_rows)


def read_tables(files: Sequence[str], options: ReadOptions) -> list[Table]:
    """What the footers tell. Raises SourceError where one is broken, has no images, or not the first one's columns."""
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(partial(_read_table, options=options), files))
    first = tables[0]
    for table in tables[1:]:
        if table.image != first.image:
            raise SourceError(
                f"{table.file} has its images in column '{table.image.name}' as {table.image.holds}, {first.file} in "
                f"'{first.image.name}' as {first.image.holds}; name one with --image-column, or embed them apart"
            )
        for holder, other in ((first, table), (table, first)):
            if missing := next((name for name in holder.columns if name not in other.columns), None):
                raise SourceError(
                    f"{other.file} has no column '{missing}' to carry, {holder.file} has one; name with --columns "
                    "those that all have"
                )
    return tables


def find_image(schema: pa.Schema, asked: str | None) -> ImageColumn:
    """Raises ValueError where it cannot be told, or is not there."""
    if asked is not None:
        if asked not in schema.names:
            raise ValueError(f"has no column '{asked}'; its columns are {', '.join(schema.names)}")
        return _as_image(schema, asked)
    holding = [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    if "image" in holding or len(holding) == 1:
        return ImageColumn("image" if "image" in holding else holding[0], "bytes")
    if holding:
        raise ValueError(f"has several columns that may hold images, {', '.join(holding)}; choose by --image-column")
    if (name := next((name for name in _LISTS if name in schema.names and _is_text(schema, name)), None)) is not None:
        return ImageColumn(name, "files")
    raise ValueError(
        f"holds no images: no column is binary or a struct with bytes, and none named {', '.join(_LISTS[:-1])} names "
        f"files; its columns are {', '.join(schema.names)}; choose by --image-column"
    )


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Of the columns that are a ClassLabel of Hugging Face `datasets`: integers, whose names are in the metadata."""
    document: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = document.get("info", {}).get("features", {})
    return {
        name: list(feature["names"])
        for name, feature in features.items()
        if isinstance(feature, dict)
        and feature.get("names")
        and name in schema.names
        and pa.types.is_integer(schema.field(name).type)
    }


def carried(schema: pa.Schema, image: ImageColumn, asked: tuple[str, ...] | None) -> Columns:
    """The columns beside the image that hold scalars, or those of them that are asked for.

    Raises ValueError for one that is asked for and is none.
    """
    named = class_names(schema)
    kinds: Columns = {}
    for field in schema:
        kind = "string" if field.name in named else _scalar_type(field.type)
        if kind is not None and field.name != image.name:
            kinds[field.name] = kind
    if asked is None:
        return kinds
    for name in asked:
        if name not in kinds:
            raise ValueError(f"has no column '{name}' to carry; those with scalars are {', '.join(kinds) or 'none'}")
    return {name: kinds[name] for name in asked}


def row_ranges(group_rows: Sequence[int], rows_per_piece: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of pieces: of a part of a row group in equal shares, or of as many whole ones as there may be.

    What begins within a row group costs what lies before it there, so none reaches from one into another.
    """
    first = gathered = 0
    for rows in group_rows:
        if gathered and gathered + rows > rows_per_piece:
            yield first, gathered
            first, gathered = first + gathered, 0
        if rows <= rows_per_piece:
            gathered += rows
            continue
        num_pieces = -(-rows // rows_per_piece)
        edges = [first + rows * i // num_pieces for i in range(num_pieces + 1)]
        yield from ((start, stop - start) for start, stop in pairwise(edges))
        first += rows
    if gathered:
        yield first, gathered


def _read_table(file: str, options: ReadOptions) -> Table:
    metadata, schema = read_footer(file)
    try:
        image = find_image(schema, options.image_column)
        columns = carried(schema, image, options.columns)
    except ValueError as e:
        raise SourceError(f"{file} {e}") from e
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return Table(file, image, columns, tuple(group.num_rows for group in groups), _stored_bytes(groups, image.name))


def _stored_bytes(groups: Sequence[pq.RowGroupMetaData], column: str) -> int:
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    of_column = re.compile(rf"^{re.escape(column)}(\..*)?$")  # a struct's members are columns of their own
    return sum(chunk.total_compressed_size for chunk in chunks if of_column.match(chunk.path_in_schema))


def _as_image(schema: pa.Schema, name: str) -> ImageColumn:
    if _holds_bytes(schema.field(name).type):
        return ImageColumn(name, "bytes")
    if _is_text(schema, name):
        return ImageColumn(name, "files")
    raise ValueError(
        f"has no images in column '{name}': it is {schema.field(name).type}, and not binary, a struct with bytes, or "
        "text that names files"
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(schema: pa.Schema, name: str) -> bool:
    return _scalar_type(schema.field(name).type) == "string" and not pa.types.is_temporal(schema.field(name).type)


def _scalar_type(kind: pa.DataType) -> ColumnType | None:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if types.is_date(kind) or types.is_timestamp(kind) or types.is_time(kind):
        return "string"  # as ISO 8601 writes it
    if types.is_integer(kind):
        return "int64"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "double"
    return "bool" if types.is_boolean(kind) else None
