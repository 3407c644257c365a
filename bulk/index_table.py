"""The table of an index, by LanceDB: opened, made, added to, and tuned for search. This module alone knows LanceDB.

A change of the table is one commit, which a kill leaves undone or done. Beside what bundle.vectors says the table has a
column `_part`, the mark of the part that a row came from: so what is in it is told by the rows themselves, and no
record can differ from them. Its type is one that no carried column has.

Letters: D width of a vector.
"""

from __future__ import annotations

import importlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from bulk.errors import BulkError
from bulk.pieces import ColumnType
from bundle.vectors import INDEX_TABLE, REFINE, VECTORS_KEY, IndexInfo, VectorSpec, store_options
from sources.urls import is_url

SOURCE_KEY = b"maeve.source"  # of the table's metadata: where its parts lie, see bulk.indexing
ROWS_PER_PARTITION = 4096
_ARROW = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
_TRAINED = re.compile(r"^vector_(\d+)$")  # the name of the approximate index says of how many rows it learned
_MARKS_PER_DELETE = 500


@dataclass(frozen=True)
class Contents:
    """What an index holds. columns: those to filter by. source: where its parts lie."""

    vectors: VectorSpec
    columns: Mapping[str, ColumnType]
    source: str

    def schema(self) -> pa.Schema:
        fields = [
            ("path", pa.string()),
            ("sha256", pa.string()),
            ("vector", pa.list_(pa.float32(), self.vectors.dim)),
            *((name, _ARROW[kind]) for name, kind in self.columns.items()),
            ("_part", pa.uint64()),
        ]
        info = IndexInfo(vectors=self.vectors).model_dump_json().encode()
        return pa.schema(fields, metadata={VECTORS_KEY: info, SOURCE_KEY: self.source.encode()})


class IndexTable:
    """Its methods raise BulkError where LanceDB, a disk or a store fails."""

    def __init__(self, location: str, table: Any, contents: Contents) -> None:
        self._location, self._table, self.contents = location, table, contents

    @classmethod
    def open(cls, location: str) -> IndexTable | None:
        """None where there is none. BulkError for one that cannot be read, or is no index of ours."""
        if not is_url(location) and not Path(location).is_dir():
            return None  # LanceDB would make it
        with _translated(location):
            try:
                table = _connect(location).open_table(INDEX_TABLE)
            except ValueError as e:
                if "was not found" in str(e):  # or was begun and never had a version
                    return None
                raise
            return cls(location, table, _contents(location, table.schema))

    @classmethod
    def make(cls, location: str, contents: Contents, batches: Iterable[pa.RecordBatch] = ()) -> IndexTable:
        """In the place of the one that is there, which whoever has it open goes on reading. One commit."""
        schema = contents.schema()
        with _translated(location), _own_errors(batches) as rows:
            reader = pa.RecordBatchReader.from_batches(schema, rows)
            table = _connect(location).create_table(INDEX_TABLE, data=reader, schema=schema, mode="overwrite")
        return cls(location, table, contents)

    @property
    def num_rows(self) -> int:
        with _translated(self._location):
            return int(self._table.count_rows())

    def rows_by_part(self) -> Counter[int]:
        """By the parts' marks."""
        found: Counter[int] = Counter()
        with _translated(self._location):
            for batch in self._table.search().select(["_part"]).to_batches():
                marks, counts = np.unique(batch["_part"].to_numpy(), return_counts=True)
                found.update(dict(zip(marks.tolist(), counts.tolist(), strict=True)))
        return found

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        """All of them or none."""
        with _translated(self._location), _own_errors(batches) as rows:
            self._table.add(pa.RecordBatchReader.from_batches(self.contents.schema(), rows))

    def remove(self, marks: Sequence[int]) -> None:
        """All rows of these parts."""
        with _translated(self._location):
            for start in range(0, len(marks), _MARKS_PER_DELETE):
                some = ", ".join(map(str, marks[start : start + _MARKS_PER_DELETE]))
                self._table.delete(f"_part IN ({some})")

    def tidy(self) -> None:
        """Merge small files, take new rows into the approximate index, delete versions that are older than a week."""
        with _translated(self._location):
            self._table.optimize()

    @property
    def num_trained(self) -> int:
        """Of how many rows the approximate index learned; 0 where there is none."""
        with _translated(self._location):
            return max((rows for rows, _ in self._approximate()), default=0)

    def train(self) -> None:
        """An approximate index that learns of the rows there are, which replaces another one once it is there; and for
        each column to filter by an index that is kept up afterwards.
        """
        from lancedb.index import Bitmap, BTree, IvfSq

        with _translated(self._location):
            num_rows = int(self._table.count_rows())
            partitions = max(1, num_rows // ROWS_PER_PARTITION)
            kind = IvfSq(distance_type="cosine", num_partitions=partitions)
            self._table.create_index("vector", config=kind, name=f"vector_{num_rows}", replace=True)
            for rows, name in self._approximate():
                if rows != num_rows:
                    self._table.drop_index(name)
            indexed = {column for each in self._table.list_indices() for column in each.columns}
            for column, values in self.contents.columns.items():
                if column not in indexed:
                    self._table.create_index(column, config=Bitmap() if values == "bool" else BTree())

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """All of them, float32 [N, D] at a time."""
        with _translated(self._location):
            for batch in self._table.search().select(["vector"]).to_batches():
                yield batch["vector"].flatten().to_numpy().reshape(len(batch), -1)

    def take(self, places: Sequence[int]) -> NDArray[np.float32]:
        """The vectors [N, D] at these places."""
        with _translated(self._location):
            found = self._table.take_offsets(list(places)).select(["vector"]).to_arrow()["vector"].combine_chunks()
            vectors: NDArray[np.float32] = found.flatten().to_numpy().reshape(len(places), -1)
            return vectors

    def nearest(self, query: NDArray[np.float32], k: int) -> NDArray[np.float32]:
        """The vectors [K, D] of the rows most like `query` [D], as the service finds them."""
        with _translated(self._location):
            search = self._table.search(query).distance_type("cosine").limit(k).refine_factor(REFINE)
            told = search.maximum_nprobes(0).select(["vector", "_distance"]).to_arrow()  # as many as it takes to find k
            found = told["vector"].combine_chunks()
            vectors: NDArray[np.float32] = found.flatten().to_numpy().reshape(-1, len(query))
            return vectors

    def _approximate(self) -> list[tuple[int, str]]:
        """(rows that it learned of, name) of every approximate index."""
        names = [index.name for index in self._table.list_indices()]
        return [(int(match[1]), name) for name in names if (match := _TRAINED.match(name))]


def _connect(location: str) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings on stderr are for those who write to LanceDB
    try:
        lancedb = importlib.import_module("lancedb")
    except ImportError as e:
        raise BulkError("LanceDB is not installed: pip install -e '.[bulk]'") from e
    return lancedb.connect(location, storage_options=store_options(location, os.environ))


def _contents(location: str, schema: pa.Schema) -> Contents:
    metadata = schema.metadata or {}
    try:
        vectors = IndexInfo.model_validate_json(metadata[VECTORS_KEY]).vectors
        source = metadata[SOURCE_KEY].decode()
    except (KeyError, ValidationError) as e:
        raise BulkError(
            f"the table {INDEX_TABLE} of {location} is no index of this Maeve; choose another --out, or make it anew: "
            "--rebuild"
        ) from e
    types = {str(kind): name for name, kind in _ARROW.items()}
    own = ("path", "sha256", "vector", "_part")
    return Contents(vectors, {f.name: types[str(f.type)] for f in schema if f.name not in own}, source)  # type: ignore[misc]


@contextmanager
def _own_errors(batches: Iterable[pa.RecordBatch]) -> Iterator[Iterator[pa.RecordBatch]]:
    """The batches; what is raised while they are made comes out of the block as it was, and not as LanceDB tells it."""
    raised: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as e:
            raised.append(e)
            raise

    try:
        yield guarded()
    except Exception:
        if raised:
            raise raised[0] from None
        raise


@contextmanager
def _translated(location: str) -> Iterator[None]:
    """What LanceDB raises is of every type, and a panic of its Rust code is not even an Exception."""
    try:
        yield
    except BulkError:
        raise
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":
            raise
        advice = "make room there" if "No space left" in str(e) else "if it is damaged, delete it, and index again"
        raise BulkError(f"the index {location} cannot be read or written: {_first_line(e)}; {advice}") from e


def _first_line(error: BaseException) -> str:
    """Without the place in LanceDB's code."""
    return re.split(r", \S+\.rs:\d+|\n", str(error), maxsplit=1)[0] or type(error).__name__
