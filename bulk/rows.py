"""Rows of Parquet, a range of them at a time, without reading what lies before it again and again."""

from __future__ import annotations

import posixpath
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bulk.content import WAITS_S, Data, not_read, read_files, too_large
from bulk.lists import listed_path, resolved
from bulk.pieces import ColumnType, Piece, ReadOptions, Row, Scalar
from bulk.tables import class_names, find_image
from bundle.errors import InvalidInput
from sources.parquet import open_parquet
from sources.stores import reason
from sources.urls import is_url

_BATCH_BYTES = 2**26
_MAX_BATCH_ROWS = 256
_KEPT_CURSORS = 2


def read_rows(piece: Piece, options: ReadOptions, columns: Mapping[str, ColumnType]) -> Iterator[Row]:
    """Every row of the range but those to be skipped. Where a row group breaks off, each row behind has the reason."""
    first, stop = piece.first, piece.first + (piece.count or 0) + len(piece.skip)
    num_failures = 0
    while first < stop:
        cursor: _Cursor | None = None
        try:
            cursor = _borrow(piece.location, options.image_column, tuple(columns))
            for start, batch in cursor.read(first, stop):
                yield from _rows(piece, batch, start, cursor, options)
                first = start + batch.num_rows
            _give_back(cursor)
        except Exception as e:  # noqa: BLE001 - every store raises errors of its own
            damaged = isinstance(e, pa.ArrowException | ValueError)
            if not damaged and num_failures < len(WAITS_S) and is_url(piece.location) and reason(e).passing:
                time.sleep(WAITS_S[num_failures])
                num_failures += 1
                continue
            behind = stop if cursor is None else min(stop, cursor.end_of_group(first))
            said = f"the row cannot be read: {e if damaged else f'the file {reason(e).text}'}"
            error = InvalidInput(said) if damaged else not_read(piece.location, reason(e), said)
            for row in range(first, behind):
                if row not in piece.skip:
                    yield Row(f"{piece.prefix}#{row}", error)
            first = behind


class _Cursor:
    """A Parquet file, read forwards. What begins within a row group can only be reached from the group's start.

    So the pieces of a large row group are read by one cursor as far as they come in order, and not each from the start.
    """

    def __init__(self, path: str, image_column: str | None, columns: tuple[str, ...]) -> None:
        self.key = (path, image_column, columns)
        self._file = open_parquet(path)
        schema = self._file.schema_arrow
        self.image = find_image(schema, image_column)
        self.names = {name: named for name, named in class_names(schema).items() if name in columns}
        self.columns = [name for name in columns if name in schema.names and name != self.image.name]
        metadata = self._file.metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._edges: list[int] = [0, *accumulate(counts)]
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._group, self._row = -1, 0  # the group that is open, and the number of the first row of the next batch

    def read(self, first: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of its first row, rows) of the range. Raises what Arrow and the store raise, and ValueError."""
        while first < stop:
            if first >= self._edges[-1]:
                raise ValueError(f"the file has {self._edges[-1]:,} rows, fewer than when it was listed")
            self._open(bisect_right(self._edges, first) - 1, first)
            batch = self._batch if self._batch is not None else next(self._batches)
            begin = first - self._row
            rows = batch.slice(begin, stop - first) if begin < batch.num_rows else None
            if rows is None or begin + rows.num_rows == batch.num_rows:
                self._batch, self._row = None, self._row + batch.num_rows
            else:
                self._batch = batch
            if rows is not None:
                yield first, rows
                first += rows.num_rows

    def _open(self, group: int, first: int) -> None:
        if group == self._group and self._row <= first:
            return
        self._group, self._row, self._batch = group, self._edges[group], None
        self._batches = self._file.iter_batches(
            self._batch_rows(group), row_groups=[group], columns=[self.image.name, *self.columns], use_threads=False
        )

    def _batch_rows(self, group: int) -> int:
        metadata = self._file.metadata.row_group(group)
        bytes_per_row: int = metadata.total_byte_size // max(metadata.num_rows, 1)
        return min(max(_BATCH_BYTES // max(bytes_per_row, 1), 1), _MAX_BATCH_ROWS)

    def end_of_group(self, row: int) -> int:
        """The number of the first row behind the group that holds `row`; of what is beyond the file, none."""
        later = bisect_right(self._edges, row)
        return self._edges[later] if later < len(self._edges) else 2**63

    def close(self) -> None:
        self._file.close(force=True)


_kept: dict[Any, _Cursor] = {}  # by key, the one used last at the end; one that is lent is not in it
_lock = threading.Lock()


def _borrow(path: str, image_column: str | None, columns: tuple[str, ...]) -> _Cursor:
    with _lock:
        cursor = _kept.pop((path, image_column, columns), None)
    return cursor or _Cursor(path, image_column, columns)


def _give_back(cursor: _Cursor) -> None:
    with _lock:
        if (other := _kept.pop(cursor.key, None)) is not None:
            other.close()
        _kept[cursor.key] = cursor
        while len(_kept) > _KEPT_CURSORS:
            _kept.pop(next(iter(_kept))).close()


def _rows(piece: Piece, batch: pa.RecordBatch, start: int, cursor: _Cursor, options: ReadOptions) -> Iterator[Row]:
    """Of one batch, whose first row has the number `start`."""
    image = batch.column(0)
    columns = {name: _values(batch.column(name), cursor.names.get(name)) for name in cursor.columns}
    skip = frozenset(piece.skip)
    rows = [i for i in range(batch.num_rows) if start + i not in skip]
    folder = posixpath.dirname(piece.location)
    if cursor.image.holds == "files":
        files = image.to_pylist()
        paths = {i: listed_path(files[i], piece.prefix) if files[i] else f"{piece.prefix}#{start + i}" for i in rows}
        contents = _contents([files[i] for i in rows], folder, options.max_file_bytes)
    else:
        paths = {i: f"{piece.prefix}#{start + i}" for i in rows}
        contents = _embedded(image, rows, folder, options.max_file_bytes)
    for i, data in zip(rows, contents, strict=True):
        yield Row(paths[i], data, {name: values[i] for name, values in columns.items()})


def _contents(names: Sequence[str | None], folder: str, max_bytes: int) -> Iterator[Data]:
    contents = read_files([resolved(name, folder) for name in names if name], max_bytes)
    return (next(contents) if name else InvalidInput("no file is named") for name in names)


def _embedded(image: pa.Array, rows: Sequence[int], folder: str, max_bytes: int) -> Iterator[Data]:
    """The bytes in the column. `datasets` leaves them out where it has written a path alone."""
    is_struct = pa.types.is_struct(image.type)
    # Not `field`, which knows nothing of a struct that is missing as a whole.
    data = pc.struct_field(image, "bytes") if is_struct else image
    has_paths = is_struct and image.type.get_field_index("path") >= 0
    paths = pc.struct_field(image, "path") if has_paths else None
    for i in rows:
        value = data[i]
        if value.is_valid:
            num_bytes = value.as_buffer().size
            if num_bytes > max_bytes:
                yield too_large(num_bytes, max_bytes)
            else:
                yield value.as_py() or InvalidInput("the image has no bytes")
        elif paths is not None and paths[i].is_valid:
            yield from _contents([paths[i].as_py()], folder, max_bytes)
        else:
            yield InvalidInput("the image is missing")


def _values(column: pa.Array, names: Sequence[str] | None) -> list[Scalar]:
    """As Python has them; times in ISO 8601, in UTC where they have a zone; labels by their names."""
    kind = column.type
    if names is not None:
        return [None if v in (None, -1) else names[v] if 0 <= v < len(names) else v for v in column.to_pylist()]
    if pa.types.is_timestamp(kind):
        text = pc.strftime(column.cast(pa.timestamp(kind.unit)), format="%Y-%m-%dT%H:%M:%S").to_pylist()
        return [value and value + ("Z" if kind.tz else "") for value in text]
    if pa.types.is_date(kind) or pa.types.is_time(kind):
        column = column.cast(pa.string())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    values: list[Scalar] = column.to_pylist()
    return values
