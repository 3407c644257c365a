"""`read_piece`: the images of a piece, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bulk.columns import conform
from bulk.content import read_files
from bulk.pieces import ColumnType, Piece, ReadOptions, Row
from bulk.rows import read_rows
from bulk.shards import read_shard


def read_piece(piece: Piece, options: ReadOptions, columns: Mapping[str, ColumnType]) -> Iterator[Row]:
    """The images in order, and in place of each that cannot be read the reason; nothing is raised for bad data.

    columns: of the listing; every row has exactly these, in their order, each None or of its type. A piece whose count
    is known has that many rows. Of a shard that breaks off, the last row is named as the shard and says so.
    """
    if piece.kind == "rows":
        rows = read_rows(piece, options, columns)
    elif piece.kind == "tar":
        rows = read_shard(piece, options, columns)
    else:
        rows = _read_named(piece, options)
    return (conform(row, columns) for row in rows)


def _read_named(piece: Piece, options: ReadOptions) -> Iterator[Row]:
    root = piece.location.rstrip("/")
    contents = read_files([f"{root}/{name}" for name in piece.names], options.max_file_bytes)
    for name, data in zip(piece.names, contents, strict=True):
        top, slash, _ = name.partition("/")
        yield Row(piece.prefix + name, data, {"label": top if slash else None})
