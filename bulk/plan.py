"""`_maeve/plan-NNNN.parquet`: which piece of the source becomes which part. A plan is written once and never changed.

A run that finds more in its source than the plans know writes a further one, whose parts are numbered on.
"""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bulk.errors import BulkError
from bulk.pieces import Piece
from bulk.place import STATE, Place

T = TypeVar("T")
_Folder = tuple[str, str]  # location and prefix

_NAME = re.compile(r"^plan-(\d{4,})\.parquet$")
_PIECES_PER_GROUP = 32  # some 30,000 names: what is read to find one piece
_SCHEMA = pa.schema({
    "kind": pa.string(), "location": pa.binary(), "names": pa.list_(pa.binary()), "first": pa.int64(),
    "count": pa.int64(), "num_bytes": pa.int64(), "prefix": pa.string(), "skip": pa.list_(pa.int64()),
    "file_rows": pa.int64(),
})  # fmt: skip


class Plans:
    """All plans of a place, in order; pieces have the numbers of their parts. Used from any thread.

    Travels to other processes as its place and the names of the files, which are open only while they are read.
    """

    def __init__(self, place: Place, names: Sequence[str]) -> None:
        self._place, self._names = place, tuple(names)

    @classmethod
    def of(cls, place: Place) -> Plans:
        """Those that are there. BulkError where one is missing in between."""
        names = sorted(name for name in place.names(STATE) if _NAME.match(name))
        for number, name in enumerate(names):
            if name != _plan_name(number):
                raise BulkError(f"{place}/{STATE} lacks {_plan_name(number)}; choose another --out")
        return cls(place, names)

    def __reduce__(self) -> tuple[type[Plans], tuple[Place, tuple[str, ...]]]:
        return Plans, (self._place, self._names)

    def __len__(self) -> int:
        return sum(footer.num_rows for footer in self._footers)

    def __getitem__(self, number: int) -> Piece:
        starts = [0, *accumulate(footer.num_rows for footer in self._footers)]
        at = bisect_right(starts, number) - 1
        group, row = divmod(number - starts[at], _PIECES_PER_GROUP)
        with self._opened(at) as file:
            (found,) = file.read_row_group(group).slice(row, 1).to_pylist()
        return Piece(**found | {
            "location": os.fsdecode(found["location"]), "names": tuple(map(os.fsdecode, found["names"])),
            "skip": tuple(found["skip"]),
        })  # fmt: skip

    def counts(self) -> list[int | None]:
        """The number of images of every piece, as far as it was known."""
        return [count for table in self.tables("count") for count in table["count"].to_pylist()]

    def tables(self, *columns: str) -> Iterator[pa.Table]:
        """These columns, group by group."""
        for at, footer in enumerate(self._footers):
            with self._opened(at) as file:
                for group in range(footer.num_row_groups):
                    yield file.read_row_group(group, columns=list(columns))

    def extended(self, pieces: Iterable[Piece]) -> Plans:
        """With one more plan, which is written to the place."""
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, _SCHEMA, compression="zstd") as writer:
            for some in _some(pieces, _PIECES_PER_GROUP):
                writer.write_table(pa.Table.from_pylist([_fields(piece) for piece in some], schema=_SCHEMA))
        name = _plan_name(len(self._names))
        self._place.write(f"{STATE}/{name}", buffer.getvalue())
        return Plans(self._place, (*self._names, name))

    @cached_property
    def _footers(self) -> list[pq.FileMetaData]:
        footers = []
        for name in self._names:
            with self._place.open(f"{STATE}/{name}") as file:
                footers.append(pq.read_metadata(file))
        return footers

    @contextmanager
    def _opened(self, at: int) -> Iterator[pq.ParquetFile]:
        with self._place.open(f"{STATE}/{self._names[at]}") as file:
            yield pq.ParquetFile(file, metadata=self._footers[at])


def unplanned(plans: Plans, pieces: Sequence[Piece], rows_per_piece: int) -> Sequence[Piece]:
    """What of `pieces` no plan knows, files cut anew into pieces of `rows_per_piece`.

    BulkError for a Parquet file that has another number of rows than when it was planned.
    """
    if not len(plans):
        return pieces
    known = _Known.of(plans)
    files: dict[_Folder, list[pa.Array]] = defaultdict(list)
    others: list[Piece] = []
    for piece in pieces:
        if piece.kind == "files":
            files[piece.location, piece.prefix].append(pa.array(map(os.fsencode, piece.names), pa.binary()))
        elif not known.holds(piece):
            others.append(piece)
    return [*_new_files(files, known.names, rows_per_piece), *others]


@dataclass(frozen=True)
class _Known:
    """Of all plans: the names of files by their folder; Parquet files, with the rows that they had; shards, with 0."""

    names: Mapping[_Folder, list[pa.Array]]
    whole: Mapping[str, int]

    @classmethod
    def of(cls, plans: Plans) -> _Known:
        names: dict[_Folder, list[pa.Array]] = defaultdict(list)
        whole: dict[str, int] = {}
        for table in plans.tables("kind", "location", "names", "prefix", "file_rows"):
            columns = (table[name].to_pylist() for name in ("kind", "location", "prefix", "file_rows"))
            for i, (kind, location, prefix, file_rows) in enumerate(zip(*columns, strict=True)):
                if kind == "files":
                    names[os.fsdecode(location), prefix].append(table["names"].slice(i, 1).combine_chunks().flatten())
                else:
                    whole[os.fsdecode(location)] = file_rows
        return cls(names, whole)

    def holds(self, piece: Piece) -> bool:
        """Of a Parquet file the rows are compared, also those that are skipped, which may be others than they were."""
        before = self.whole.get(piece.location)
        if before is not None and before != piece.file_rows:
            raise BulkError(
                f"{piece.location} has {piece.file_rows:,} rows, and had {before:,} when this run began; what was "
                "written anew wants another --out"
            )
        return before is not None


def _new_files(
    found: Mapping[_Folder, list[pa.Array]], known: Mapping[_Folder, list[pa.Array]], rows_per_piece: int
) -> Iterator[Piece]:
    """By Arrow's hash table: ten million names are a few hundred megabytes there, and several times that as strings."""
    for (location, prefix), arrays in found.items():
        names = pa.chunked_array(arrays, pa.binary())
        old = pa.chunked_array(known.get((location, prefix), []), pa.binary())
        new = names.filter(pc.invert(pc.is_in(names, value_set=old))).to_pylist()
        for some in _some(new, rows_per_piece):
            yield Piece("files", location, names=tuple(map(os.fsdecode, some)), count=len(some), prefix=prefix)


def _fields(piece: Piece) -> dict[str, Any]:
    """Paths as bytes: a file's name need not be text."""
    names = [os.fsencode(name) for name in piece.names]
    return asdict(piece) | {"location": os.fsencode(piece.location), "names": names}


def _some(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size`, the last one what is left."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part


def _plan_name(number: int) -> str:
    return f"plan-{number:04d}.parquet"
