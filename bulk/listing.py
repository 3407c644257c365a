"""`list_pieces`: what there is to embed, before any image is read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from bulk.columns import Columns, goes_on, merge
from bulk.finding import Found, Once, Progress, drop_repeated, find, identity, source_names
from bulk.lists import listed_names, resolved
from bulk.pieces import ColumnType, Listing, Piece, ReadOptions
from bulk.shards import shard_columns
from bulk.tables import Table, read_tables, row_ranges
from bundle.errors import SourceError
from sources.names import Names
from sources.urls import is_url

Nothing = NDArray[np.bool_]


def list_pieces(
    sources: Sequence[str],
    options: ReadOptions,
    *,
    carried: Mapping[str, ColumnType] | None = None,
    progress: Progress | None = None,
) -> Listing:
    """Everything that the sources name, once, in an order that depends on them and their files' names alone.

    sources: folders, patterns, single images, Parquet, tar shards, by path or URL; each of one kind, several of any.
    carried: the columns of an earlier listing, which stay where no others are asked for and those of now fit in.
    progress: hears how many files there are so far. Raises SourceError where one is not there, cannot be reached or
    read, or holds nothing to embed, and where columns are missing, clash, or have a name that the output needs.
    """
    if not sources:
        raise SourceError("no source is named; name a folder, a pattern, images, .parquet or .tar files, or a URL")
    named = find(sources, progress)
    prefixes = source_names([item.root for item in named])  # of all, so that they stay when more is found
    found, num_repeated = drop_repeated(named)
    tables = [read_tables([item.path(n) for n in item.names], options) if item.kind == "rows" else [] for item in found]
    repeated, num_listed = _listed_again(found, tables)
    groups = list[Sequence[Piece]]()
    for item, own, again in zip(found, tables, repeated, strict=True):
        groups.append(_pieces(item, own, again, prefixes[item.root], options.rows_per_piece))
    pieces = _Joined([group for group in groups if len(group)])
    if not len(pieces):
        raise SourceError(f"{', '.join(sources)} holds no rows")
    return Listing(pieces, _columns(found, tables, options, carried), num_repeated + num_listed)


def _listed_again(found: list[Found], tables: list[list[Table]]) -> tuple[list[Nothing], int]:
    """Which images lists of files name that came before, there or in a folder; those of a folder are dropped here."""
    if not any(table.image.holds == "files" for own in tables for table in own):
        return [np.zeros(0, np.bool_) for _ in found], 0
    once = Once()
    for item, own in zip(found, tables, strict=True):
        once.add(_image_files(item, own))
    repeated = once.repeated()
    for item, again in zip(found, repeated, strict=True):
        if item.kind == "files" and again.any():
            item.names = Names(name for name, drop in zip(item.names, again, strict=True) if not drop)
    return repeated, sum(int(again.sum()) for again in repeated)


def _image_files(item: Found, tables: list[Table]) -> Iterator[str]:
    """Where each image lies that has a file of its own, one by one as they are listed."""
    root = identity(item.root).rstrip("/")
    if item.kind == "files":
        yield from (f"{root}/{name}" for name in item.names)
    for table, name in zip(tables, item.names if tables else (), strict=True):
        if table.image.holds == "files":
            folder = f"{root}/{name}".rpartition("/")[0]
            for row, value in enumerate(listed_names(table.file, table.image.name)):
                yield resolved(value, folder) if value else f"{table.file}#{row}"


def _pieces(item: Found, tables: list[Table], again: Nothing, prefix: str, rows_per_piece: int) -> Sequence[Piece]:
    if item.kind == "files":
        return _FilePieces(item.root, item.names, prefix, rows_per_piece)
    if item.kind == "tar":
        return [
            Piece("tar", path := item.path(name), num_bytes=_local_size(path), prefix=prefix + item.shown(name))
            for name in item.names
        ]
    pieces, before = list[Piece](), 0
    for table, name in zip(tables, item.names, strict=True):
        own = again[before : before + table.num_rows]
        pieces += _row_pieces(table, prefix + item.shown(name), own, rows_per_piece)
        before += table.num_rows if table.image.holds == "files" else 0
    return pieces


def _row_pieces(table: Table, prefix: str, again: Nothing, rows_per_piece: int) -> Iterator[Piece]:
    for first, rows in row_ranges(table.group_rows, rows_per_piece):
        skip = tuple((first + np.flatnonzero(again[first : first + rows])).tolist())
        num_bytes = table.num_bytes * rows // table.num_rows
        if rows > len(skip):
            yield Piece("rows", table.file, (), first, rows - len(skip), num_bytes, prefix, skip, table.num_rows)


def _local_size(path: str) -> int:
    """0 also of a link that leads nowhere."""
    return 0 if is_url(path) or not Path(path).exists() else Path(path).stat().st_size


def _columns(
    found: list[Found], tables: list[list[Table]], options: ReadOptions, before: Mapping[str, ColumnType] | None
) -> Columns:
    """What is carried: `before`, else as asked for, or all. Raises SourceError for what is asked for and nowhere."""
    asked = options.columns
    parts = list[tuple[str, Columns]]()
    for item, own in zip(found, tables, strict=True):
        if item.kind == "rows":
            parts += ((table.file, table.columns) for table in own)
        elif item.kind == "tar":
            parts.append((item.root, shard_columns([item.path(name) for name in item.names], asked)))
        elif item.names.holds("/") and (asked is None or "label" in asked):
            parts.append((item.root, {"label": "string"}))
    merged = merge(parts)
    may_lack = all(item.kind != "rows" for item in found)
    if before is not None and goes_on(before, merged, asked, may_lack=may_lack):
        return dict(before)
    if asked is None:
        return merged
    if missing := next((name for name in asked if name not in merged), None):
        raise SourceError(
            f"there is no column '{missing}' to carry; folders have label where there are sub-folders, tar shards have "
            "label and what .json holds, Parquet its columns with scalars"
        )
    return {name: merged[name] for name in asked}


@dataclass(frozen=True)
class _FilePieces(Sequence[Piece]):
    """Files below a folder, cut in their order."""

    root: str
    names: Names
    prefix: str
    files_per_piece: int

    def __len__(self) -> int:
        return -(-len(self.names) // self.files_per_piece)

    @overload
    def __getitem__(self, i: int) -> Piece: ...
    @overload
    def __getitem__(self, i: slice) -> list[Piece]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        first = range(len(self))[i] * self.files_per_piece
        names = tuple(self.names[j] for j in range(first, min(first + self.files_per_piece, len(self.names))))
        return Piece("files", self.root, names, count=len(names), prefix=self.prefix)


class _Joined(Sequence[Piece]):
    """Several sequences, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Piece]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, i: int) -> Piece: ...
    @overload
    def __getitem__(self, i: slice) -> list[Piece]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        part = bisect_right(self._ends, i)
        return self._parts[part][i - (self._ends[part - 1] if part else 0)]
