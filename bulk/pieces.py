"""What there is to embed, in pieces that are read by themselves: some image files, rows of a Parquet file, a tar shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bundle.errors import InvalidInput

Scalar = str | int | float | bool | None
ColumnType = Literal["string", "int64", "double", "bool"]


@dataclass(frozen=True)
class Piece:
    """Read in one go, on any machine.

    kind, location: `files`: a folder by path or URL, `names` are relative to it, with slashes; `rows`: a Parquet file,
    of which `count` rows from `first` on; `tar`: a whole shard. count: the number of images, None where only reading
    tells. num_bytes: about how much there is to read, 0 where nothing tells.
    """

    kind: Literal["files", "rows", "tar"]
    location: str
    names: tuple[str, ...] = ()
    first: int = 0
    count: int | None = None
    num_bytes: int = 0


@dataclass(frozen=True)
class Row:
    """An image, or the reason why there is none. path: unique in its source, see `Listing`; columns: to be carried."""

    path: str
    data: bytes | InvalidInput
    columns: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """pieces: in a fixed order. columns: what every row carries beside its path, and of which type.

    A row's path is the file's name relative to the source's folder, `FILE.parquet#ROW` for a row of Parquet, and
    `SHARD.tar/MEMBER` for a member of a shard; of several sources, each begins with its source's name.
    """

    pieces: tuple[Piece, ...]
    columns: Mapping[str, ColumnType]
    num_duplicates: int = 0
