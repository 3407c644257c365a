"""What `python -m bulk.index` does: compare what is in the index with what is in the parts, and change what differs."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bulk.errors import BulkError
from bulk.index import IndexConfig
from bulk.index_parts import Part, carried_columns, common_spec, differences, list_parts, num_planned, read_rows
from bulk.index_recall import K, best_cosines, recall
from bulk.index_table import Contents, IndexTable
from bulk.place import STATE, Place, lock, open_place
from bulk.progress import Bar, track
from bundle.cli.words import counted
from bundle.vectors import APPROXIMATE_FROM, VectorSpec
from sources.stores import file_system
from sources.urls import is_url

Batch = TypeVar("Batch", pa.RecordBatch, NDArray[np.float32])

_DEFAULT = "_index"  # in the folder of the parts; readers of Parquet pass over names that begin so
_WITHIN = ".."  # the source of an index that lies there, wherever the folder is moved
_ROWS_PER_COMMIT = 1_000_000  # what a kill can cost
_SAMPLE = 100  # rows that the recall is estimated by
_GROWTH = 2  # an approximate index learns anew when there are so many times the rows that it learned of


@dataclass(frozen=True)
class Summary:
    """num_rows: in the index; num_new: of which were added now; num_left_out: of the parts' rows, for want of a vector.

    recall: of the approximate search, None where all rows are compared.
    """

    location: str
    contents: Contents
    num_parts: int
    num_rows: int
    num_new: int
    num_left_out: int
    recall: float | None
    size_bytes: int
    seconds: float

    def __str__(self) -> str:
        of, search = self.contents.vectors, "compares all rows"
        if self.recall is not None:
            search = f"approximate; recall@{K} {self.recall:.3f} against comparing all rows, on a sample"
        left_out = f"{self.num_left_out:,} with an error, or a vector that has no direction"
        size = f"{self.size_bytes / 1e6:,.1f} MB" if self.size_bytes >= 1e5 else f"{self.size_bytes / 1e3:,.0f} kB"
        rows = {
            "index": self.location,
            "vectors": f"{of.dim} numbers each, {of.pooling}, of the bundle {of.bundle} ({of.digest[:12]})",
            "rows": f"{self.num_rows:,} from {counted(self.num_parts, 'part')}, {self.num_new:,} of them new",
            "left out": left_out if self.num_left_out else "none",
            "filter by": ", ".join(["path", "sha256", *self.contents.columns]),
            "search": search,
            "size": size,
            "seconds": f"{self.seconds:.1f}",
            "next": f"MAEVE_SEARCH_INDEX={shlex.quote(self.location)} python -m service --bundle BUNDLE",
        }
        return "\n".join(f"{name:<11}{value}" for name, value in rows.items())


def index(config: IndexConfig) -> Summary:
    """Bring the index up to date with the parts. BulkError where that cannot be, or must not."""
    begun = time.monotonic()
    place = open_place(config.source)
    parts, spec = _parts(place)
    location, source = _where(config, place)
    with _locked(location):
        table = None if config.rebuild else IndexTable.open(location)
        if table is None:
            contents = Contents(spec, carried_columns(parts[0], config.wanted_columns), source)
            table, num_new = _made(place, parts, contents, location, whole=config.rebuild)
        else:
            _check_same(table, parts[0], config, location)
            num_new = _updated(place, parts, table, source, location)
        num_rows = table.num_rows
        if num_rows == 0:
            raise BulkError(f"not one vector of {place} has a direction; there is nothing to search")
        found = _tuned(table, num_rows)
    return Summary(
        location=str(config.out or f"{str(config.source).rstrip('/')}/{_DEFAULT}"), contents=table.contents,
        num_parts=len(parts), num_rows=num_rows, num_new=num_new,
        num_left_out=sum(part.num_rows for part in parts) - num_rows, recall=found,
        size_bytes=_size_bytes(location), seconds=time.monotonic() - begun,
    )  # fmt: skip


def _parts(place: Place) -> tuple[list[Part], VectorSpec]:
    """All that are there, and of which kind their vectors are."""
    with track("looking at", None, unit="parts") as bar:
        parts = list_parts(place, seen=bar.show)
        if len(parts) < (planned := num_planned(place)):
            bar.say(
                f"{place} is not finished: {len(parts):,} of {planned:,} parts are there. The same bulk.embed "
                "command makes the others; then call this one again"
            )
    if not any(part.num_vectors for part in parts):
        raise BulkError(f"not one image of {place} could be embedded; {place}/{STATE}/errors.csv says why")
    return parts, common_spec(place, parts)


def _where(config: IndexConfig, place: Place) -> tuple[str, str]:
    """The index's place, and that of its parts as the table records it."""
    default = f"{place}/{_DEFAULT}"
    if config.out is None:
        return default, _WITHIN
    out = str(config.out)
    location = out.rstrip("/") if is_url(out) else os.path.abspath(out)  # noqa: PTH100 - links as they are
    return location, _WITHIN if location == default else str(place)


def _made(
    place: Place, parts: Sequence[Part], contents: Contents, location: str, *, whole: bool
) -> tuple[IndexTable, int]:
    """A new table, and its rows. whole: in one commit, so that what is there serves until then; else some at a time."""
    if not whole:
        table = IndexTable.make(location, contents)
        return table, _added(place, parts, table)
    with track("indexing", sum(part.num_vectors for part in parts), unit="rows") as bar:
        table = IndexTable.make(location, contents, _shown(read_rows(place, parts, contents.schema()), bar))
    return table, table.num_rows


def _check_same(table: IndexTable, part: Part, config: IndexConfig, location: str) -> None:
    """BulkError if the parts do not go into this index."""
    contents, anew = table.contents, "choose another --out, or make it anew: --rebuild"
    if differing := differences(contents.vectors, part.spec):
        raise BulkError(f"{location} holds other vectors than the parts: they differ in {differing}; {anew}")
    wanted = carried_columns(part, tuple(contents.columns) if config.columns is None else config.wanted_columns)
    if wanted != contents.columns:
        before, now = (", ".join(f"{n} {t}" for n, t in each.items()) or "none" for each in (contents.columns, wanted))
        raise BulkError(f"{location} has the columns {before}, and these would be {now}; {anew}")


def _updated(place: Place, parts: Sequence[Part], table: IndexTable, source: str, location: str) -> int:
    """Take out the rows of parts that are no more, or were made again, and add those of new ones. How many were added.

    More rows than a part has are of two runs at once.
    """
    there = table.rows_by_part()
    wanted = {part.mark: part for part in parts}
    gone = [mark for mark in there if mark not in wanted]
    if gone and source != table.contents.source:
        raise BulkError(
            f"{location} was made of {table.contents.source}, and holds {counted(len(gone), 'part')} that {place} has "
            "not; choose another --out, or make it anew: --rebuild"
        )
    doubled = {mark for mark in there if mark in wanted and there[mark] > wanted[mark].num_directed}
    table.remove([*gone, *doubled])
    return _added(place, [part for part in parts if part.mark not in there or part.mark in doubled], table)


def _added(place: Place, parts: Sequence[Part], table: IndexTable) -> int:
    """How many rows these parts gave."""
    before, schema, done = table.num_rows, table.contents.schema(), 0
    parts = [part for part in parts if part.num_vectors]
    with track("indexing", sum(part.num_vectors for part in parts), unit="rows") as bar:
        for some in _commits(parts):
            table.add(_shown(read_rows(place, some, schema), bar, done))
            done += sum(part.num_vectors for part in some)
    return table.num_rows - before


def _commits(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The parts that are added at once."""
    some: list[Part] = []
    num_rows = 0
    for part in parts:
        some.append(part)
        num_rows += part.num_vectors
        if num_rows >= _ROWS_PER_COMMIT:
            yield some
            some, num_rows = [], 0
    if some:
        yield some


def _shown(batches: Iterable[Batch], bar: Bar, done: int = 0) -> Iterator[Batch]:
    """The batches, and on the bar how many rows went by; done: before them."""
    for batch in batches:
        yield batch
        done += len(batch)
        bar.show(done)


def _tuned(table: IndexTable, num_rows: int) -> float | None:
    """Make searches fast, and tell the recall if they are approximate then."""
    table.tidy()
    if num_rows >= max(APPROXIMATE_FROM, _GROWTH * table.num_trained):
        with track("sorting into partitions", None, unit="rows") as bar:
            bar.show(num_rows)
            table.train()
    if not table.num_trained:
        return None
    places = np.random.default_rng(0).choice(num_rows, min(_SAMPLE, num_rows), replace=False)
    queries = table.take(sorted(places.tolist()))
    with track("estimating recall", num_rows, unit="rows") as bar:
        exact = best_cosines(queries, _shown(table.vectors(), bar), K + 1)
        # The best one is the row itself, which every search finds.
        return recall(queries, exact[:, 1:], lambda query, k: table.nearest(query, k + 1)[1:])


@contextmanager
def _locked(location: str) -> Iterator[None]:
    """While it lasts no other run changes the index; at a URL nobody prevents it, see `_updated`.

    BulkError where the place cannot be reached or written to, or is somebody else's.
    """
    names = open_place(location).names()
    if strangers := [name for name in names if not name.startswith(".") and not name.endswith(".lance")]:
        raise BulkError(f"{location} holds {min(strangers)}, which is no index's; choose another --out")
    if is_url(location):
        yield
        return
    try:
        Path(location).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(location, os.O_RDONLY)
    except OSError as e:
        raise BulkError(f"cannot write {location}: {e.strerror}; choose another --out") from e
    try:
        lock(descriptor, location)
        yield
    finally:
        os.close(descriptor)


def _size_bytes(location: str) -> int:
    """With what older versions still hold."""
    if is_url(location):
        files, root = file_system(location)
        return int(files.du(root))
    return sum(path.stat().st_size for path in Path(location).rglob("*") if path.is_file())
