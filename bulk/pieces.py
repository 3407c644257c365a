"""What there is to embed, in pieces that can be read alone: image files, rows of a Parquet file, a tar shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bundle.errors import InvalidInput

Scalar = str | int | float | bool | None
ColumnType = Literal["string", "int64", "double", "bool"]

MARK = "_maeve"  # a folder that holds a folder of this name is an output of ours, and no source
RESERVED = ("path", "sha256", "embedding", "vector", "error")  # columns of an output or an index


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """max_file_bytes: what a single image may have. image_column: of Parquet, None: found by its name or its type.

    rows_per_piece: images in a piece, at most. columns: to be carried, None: all that hold scalars.
    """

    max_file_bytes: int
    rows_per_piece: int = 1024
    image_column: str | None = None
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("max_file_bytes", "rows_per_piece"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Piece:
    """Read in one go, on any machine.

    kind, location: `files`: a folder by path or URL, `names` are relative to it, with slashes; `rows`: a Parquet file,
    of which `count` rows from `first` on; `tar`: a whole shard. count: the number of images, None where only reading
    tells. num_bytes: about how much there is to read, 0 where nothing tells. prefix: what its rows' paths begin with.
    skip: of `rows`, those that name a file that was named before; they are in `count` no more. file_rows: of `rows`,
    how many the whole file has.
    """

    kind: Literal["files", "rows", "tar"]
    location: str
    names: tuple[str, ...] = ()
    first: int = 0
    count: int | None = None
    num_bytes: int = 0
    prefix: str = ""
    skip: tuple[int, ...] = ()
    file_rows: int = 0


@dataclass(frozen=True)
class Row:
    """An image, or the reason why there is none. path: unique in its source, see `Listing`; columns: to be carried."""

    path: str
    data: bytes | InvalidInput
    columns: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """pieces: in a fixed order, each made when it is asked for. columns: what every row carries, and of which type.

    num_duplicates: how many files were named once more. A row's path is the file's name relative to the source's
    folder, `FILE.parquet#ROW` for a row of Parquet, what stands there for a row of a list of files, and
    `SHARD.tar/MEMBER` for a member of a shard; of several sources, each begins with its source's name, save what a
    list of files names from the root on.
    """

    pieces: Sequence[Piece]
    columns: Mapping[str, ColumnType]
    num_duplicates: int = 0


def named_columns(flag: str | None) -> tuple[str, ...] | None:
    """What `--columns` names, by commas, or `none`; None where it was not given. ValueError for empty names."""
    if flag is None:
        return None
    names = tuple(flag.split(","))
    if not all(names):
        raise ValueError(f"--columns takes names separated by commas, got {flag!r}")
    return () if flag == "none" else names
