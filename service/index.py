"""One version of an index of stored vectors, as `bundle.vectors` lays it down: opened, held against a bundle, searched.

LanceDB reads it, on threads of its own; this module alone knows it. An index that is opened stays as it is, whatever is
added to it meanwhile. Letters: K rows found, D width of a vector.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bundle.errors import Unavailable
from bundle.manifest import Manifest
from bundle.vectors import (
    APPROXIMATE_FROM,
    INDEX_TABLE,
    REFINE,
    VECTORS_KEY,
    IndexInfo,
    VectorSpec,
    is_store,
    store_options,
)
from service.filters import ColumnType, Value
from service.settings import SettingsError

T = TypeVar("T")

# How Arrow calls the types of columns that one can filter by, and that are told of a row.
_TYPES: Final[dict[str, ColumnType]] = {
    "string": "string", "large_string": "string", "int64": "int64", "double": "double", "bool": "bool",
}  # fmt: skip
_KEYS: Final = ("path", "sha256")
_VECTOR: Final = "vector"
_DISTANCE: Final = "_distance"  # LanceDB's own, which it warns about where it is not asked for
_TINY: Final = 1e-12  # length under which a vector counts as having none
_DIGITS: Final = 6  # of a score; what follows is noise of float32


@dataclass(frozen=True)
class Neighbour:
    """A row. score: cosine similarity, -1 to 1. columns: its values beside path and sha256; None where it has none."""

    path: str
    sha256: str
    score: float
    columns: Mapping[str, Value | None]


@dataclass(frozen=True)
class _Opened:
    """location: as it was named; uri: where that led. connection, table: LanceDB's."""

    location: str
    uri: str
    connection: Any
    table: Any


class Index:
    """An open index. `open_index` makes it.

    location: as it was named. vectors: how they were made. columns: those that one can filter by, path and sha256 among
    them, with their types. num_rows: all of them. approximate: whether a search looks into some of them alone.
    """

    def __init__(self, opened: _Opened, vectors: VectorSpec, schema: Any, *, num_rows: int, version: int) -> None:
        self.location = opened.location
        self.vectors = vectors
        self.num_rows = num_rows
        # LanceDB does not find a column again whose name has a backtick
        types = {field.name: _TYPES[str(field.type)] for field in schema
                 if str(field.type) in _TYPES and "`" not in field.name}  # fmt: skip
        self._told = [name for name in types if name not in _KEYS]
        self.columns = {name: types[name] for name in (*_KEYS, *self._told)}
        self._opened = opened
        self._table = opened.table
        self._version = version
        self._distance = "cosine"  # of an approximate index its own, see `prepare`
        self.approximate = False

    def __str__(self) -> str:
        made = f"made in {self.vectors.precision} of {_bundle(self.vectors.bundle, self.vectors.digest)}"
        return f"{self.num_rows} rows of {self.location}, {made}"

    @property
    def to_be_approximate(self) -> bool:
        """Whether it is not yet, and `bulk.index` makes it so after it has added all rows."""
        return not self.approximate and self.num_rows >= APPROXIMATE_FROM

    async def prepare(self) -> None:
        """Find out how it is searched, and that a row can be read. Unavailable."""
        await _told_as_unavailable(self.location, self._table.query().select([_VECTOR]).limit(1).to_arrow())
        for each in await _told_as_unavailable(self.location, self._table.list_indices()):
            if list(each.columns) == [_VECTOR]:
                stats = await _told_as_unavailable(self.location, self._table.index_stats(each.name))
                self.approximate, self._distance = True, stats.distance_type or self._distance

    async def newer(self) -> Index | None:
        """The newest version if it is another one. It shares what LanceDB keeps in memory of this one. Unavailable."""
        uri = await asyncio.to_thread(_uri, self.location)
        if uri != self._opened.uri:  # a link was turned to another folder
            return await open_index(self.location)
        table = await _told_as_unavailable(self.location, self._opened.connection.open_table(INDEX_TABLE))
        if await _told_as_unavailable(self.location, table.version()) == self._version:
            return None
        return await _read(replace(self._opened, table=table))

    def why_unfit(self, manifest: Manifest) -> str | None:
        """None if its vectors compare with those of the bundle; else why they do not, and what to do."""
        ours, dim = self.vectors, manifest.model.dim
        if ours.digest == manifest.digest and ours.dim == dim:
            return None
        return (
            f"the index {self.location} holds vectors of {_bundle(ours.bundle, ours.digest)}, and "
            f"{_bundle(manifest.name, manifest.digest)} is served; serve that bundle, or make the index anew with this "
            "one: python -m bulk.embed, then python -m bulk.index"
        )

    async def nearest(self, vector: NDArray[np.float32], k: int, where: Any) -> list[Neighbour]:
        """The `k` rows most like `vector` [D], of length 1, of those that `where` (service.filters.expression) lets
        through: best first, equals by path. Unavailable if the index cannot be read.

        Cancelling it stops the work.
        """
        query = self._table.query().nearest_to(vector).distance_type(self._distance).limit(k)
        query = query.select([*self.columns, _VECTOR, _DISTANCE])
        if self.approximate:
            query = query.refine_factor(REFINE).maximum_nprobes(0)  # as far as it takes to find k rows
        if where is not None:
            query = query.where(where)
        found = await _told_as_unavailable(self.location, query.to_arrow())
        return self._neighbours(vector, found) if found.num_rows else []

    def _neighbours(self, vector: NDArray[np.float32], found: Any) -> list[Neighbour]:
        """Scored by the stored vectors, whatever an approximate index thinks of them."""
        stored = np.stack(found[_VECTOR].to_numpy(zero_copy_only=False)).astype(np.float64)  # [K, D]
        cosines = np.vecdot(stored, vector) / np.maximum(np.linalg.norm(stored, axis=1), _TINY)  # [K]
        scores = np.clip(cosines, -1, 1).round(_DIGITS).tolist()
        values = {name: found[name].to_pylist() for name in (*_KEYS, *self._told)}
        rows = [
            Neighbour(
                values["path"][i], values["sha256"][i], score, {name: values[name][i] for name in self._told}
            )
            for i, score in enumerate(scores)
        ]  # fmt: skip
        return sorted(rows, key=lambda row: (-row.score, row.path))


async def open_index(location: str) -> Index:
    """The newest version of the index in a folder or at a URL of an object store.

    SettingsError where LanceDB is not installed, Unavailable where there is no index that can be read.
    """
    connect, uri = await asyncio.to_thread(lambda: (_connector(), _uri(location)))  # importing takes seconds
    connection = await _told_as_unavailable(location, connect(uri, storage_options=store_options(uri, os.environ)))
    table = await _told_as_unavailable(location, connection.open_table(INDEX_TABLE))
    return await _read(_Opened(location, uri, connection, table))


async def prove_index(location: str, manifest: Manifest) -> Index:
    """Open it and look something up. Raises as `open_index`, and Unavailable if it does not fit the bundle."""
    index = await open_index(location)
    why = index.why_unfit(manifest)
    if why is not None:
        raise Unavailable(why)
    await index.nearest(np.full(index.vectors.dim, index.vectors.dim**-0.5, np.float32), 1, None)
    return index


def _uri(location: str) -> str:
    """What LanceDB takes: a relative path that begins with "db" would be somebody's cloud. Unavailable."""
    if is_store(location):
        return location
    try:
        found, folder = Path(location).is_dir(), str(Path(location).resolve())
    except (OSError, RuntimeError) as e:  # not permitted, or links in a circle
        raise Unavailable(f"the index {location} cannot be read: {e}") from e
    if not found:  # else it would be made
        raise Unavailable(f"there is no index at {location}: no such folder; python -m bulk.index makes one")
    return folder


def _connector() -> Callable[..., Coroutine[Any, Any, Any]]:
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings would stand between our lines, in a form of their own
    try:
        lancedb = importlib.import_module("lancedb")
    except ImportError as e:
        raise SettingsError(
            "MAEVE_SEARCH_INDEX is set and LanceDB is not installed: pip install -e '.[search]', or leave it out"
        ) from e
    connect: Callable[..., Coroutine[Any, Any, Any]] = lancedb.connect_async
    return connect


async def _read(opened: _Opened) -> Index:
    """What a table says of itself. Unavailable."""
    location, table = opened.location, opened.table
    schema = await _told_as_unavailable(location, table.schema())
    num_rows = await _told_as_unavailable(location, table.count_rows())
    version = await _told_as_unavailable(location, table.version())
    index = Index(opened, _read_spec(location, schema), schema, num_rows=num_rows, version=version)
    await index.prepare()
    return index


def _read_spec(location: str, schema: Any) -> VectorSpec:
    """Of the table's metadata, which must fit its columns. Unavailable."""
    try:
        vectors = IndexInfo.model_validate_json((schema.metadata or {})[VECTORS_KEY]).vectors
    except (KeyError, ValidationError) as e:
        raise Unavailable(f"{location} does not say how its vectors were made; python -m bulk.index makes one") from e
    types = {field.name: str(field.type) for field in schema}
    keys = [types.get(name) in ("string", "large_string") for name in _KEYS]
    if not all(keys) or not re.fullmatch(rf"fixed_size_list<\w+: float>\[{vectors.dim}\]", types.get(_VECTOR, "")):
        raise Unavailable(f"{location} lacks path, sha256 or vectors of {vectors.dim} float32; make the index anew")
    return vectors


async def _told_as_unavailable(location: str, work: Coroutine[Any, Any, T]) -> T:
    """What LanceDB raises is of every type, and a panic of its Rust code is not even an Exception."""
    try:
        return await work
    except Exception as e:
        raise Unavailable(f"the index {location} cannot be read: {_first_line(e)}") from e
    except BaseException as e:
        if type(e).__name__ != "PanicException":
            raise
        raise Unavailable(f"the index {location} cannot be read: {_first_line(e)}") from e


def _first_line(error: BaseException) -> str:
    """Without the place in LanceDB's code."""
    return re.split(r", \S+\.rs:\d+|\n", str(error), maxsplit=1)[0] or type(error).__name__


def _bundle(name: str, digest: str) -> str:
    return f"the bundle {name} ({digest[:12]})"
