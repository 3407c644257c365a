"""The parts that `bulk.embed` wrote, as an index takes them: what each one is, and its rows that have a vector.

Letters: N rows, D width of a vector.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from bulk.errors import BulkError
from bulk.parts import DIRECTED_KEY, PART_NAME, has_direction, part_info
from bulk.pieces import ColumnType
from bulk.place import STATE, Place
from bundle.vectors import VECTORS_KEY, VectorSpec

T = TypeVar("T")
R = TypeVar("R")

_OWN = ("path", "sha256", "embedding", "error")
_TYPES: Mapping[str, ColumnType] = {"string": "string", "int64": "int64", "double": "double", "bool": "bool"}
_TAIL_BYTES = 2**16  # holds the footer of a part, so that one request to a store tells all
_MAGIC = b"PAR1"
_AT_ONCE = 8  # parts that are read ahead; a store's answers take longer than their bytes
_MARK_BITS = 62  # so that every reader of SQL takes it for a number


@dataclass(frozen=True)
class Part:
    """mark: of its name and its footer, which holds a digest of the content. num_vectors: its rows that have no error.
    num_directed: those of them that an index takes; as many, if the part does not say.

    columns: those beside path, sha256, embedding and error, with their types as Arrow calls them.
    """

    name: str
    mark: int
    num_rows: int
    num_vectors: int
    num_directed: int
    spec: VectorSpec
    columns: Mapping[str, str]


def list_parts(place: Place, *, seen: Callable[[int], None] = lambda _: None) -> list[Part]:
    """All, in order; `seen` is told how many were looked at. BulkError where there are none, or one is broken."""
    names = sorted((name for name in place.names() if PART_NAME.match(name)), key=lambda name: (len(name), name))
    if not names:
        raise BulkError(f"{place} holds no parts, such as part-000000.parquet; python -m bulk.embed makes them")
    parts = []
    for part in _ahead(lambda name: _look_at(place, name), names):
        parts.append(part)
        seen(len(parts))
    return parts


def common_spec(place: Place, parts: Sequence[Part]) -> VectorSpec:
    """What the vectors of all parts are. BulkError where some are of another kind, or have other columns."""
    first = parts[0]
    for part in parts[1:]:
        if differing := differences(first.spec, part.spec):
            raise BulkError(
                f"{place} holds vectors that do not compare: {part.name} differs from {first.name} in "
                f"{differing}; embed into one folder with one bundle"
            )
        if part.columns != first.columns:
            odd = sorted(dict(set(part.columns.items()) ^ set(first.columns.items())))
            raise BulkError(f"{part.name} and {first.name} of {place} differ in their columns: {', '.join(odd)}")
    return first.spec


def differences(one: VectorSpec, other: VectorSpec) -> str:
    """In what two kinds of vectors differ so that they do not compare; empty where they do."""
    ours, theirs = (spec.model_dump(exclude={"dtype", "precision", "bundle"}) for spec in (one, other))
    found = [f"{name} ({_short(ours[name])} and {_short(theirs[name])})" for name in ours if ours[name] != theirs[name]]
    if one.digest != other.digest:
        found.insert(0, f"bundle ({one.bundle} and {other.bundle})")
    return ", ".join(found)


def carried_columns(part: Part, wanted: Sequence[str] | None) -> dict[str, ColumnType]:
    """The columns to filter by, None for all. BulkError for one that is not there, or that no index takes."""
    missing = [name for name in wanted or () if name not in part.columns]
    if missing:
        known = ", ".join(part.columns) or "none"
        raise BulkError(f"the parts have no column {missing[0]!r} to filter by; there are: {known}")
    names = list(part.columns) if wanted is None else list(dict.fromkeys(wanted))
    for name in names:
        if name == "vector" or name.startswith("_") or "." in name or not name:
            why = "whose name an index cannot hold (`vector`, an underscore first, a dot)"
        elif part.columns[name] not in _TYPES:
            why = f"of type {part.columns[name]}, which an index does not filter by"
        else:
            continue
        others = ",".join(other for other in names if other != name) or "none"
        raise BulkError(f"the parts have a column {name!r} {why}; leave it out: --columns {others}")
    return {name: _TYPES[part.columns[name]] for name in names}


def num_planned(place: Place) -> int:
    """How many parts the run that writes here is to make, as far as it said so."""
    total = 0
    for name in place.names(STATE):
        if name.startswith("plan-"):
            with place.open(f"{STATE}/{name}") as file:
                total += pq.read_metadata(file).num_rows
    return total


def read_rows(place: Place, parts: Sequence[Part], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A batch for each part, in order: its rows that have a vector with a direction, by `schema`, the index's.

    Vectors come as float32, as long as they were stored. A few parts are held at a time.
    """
    return _ahead(lambda part: _rows_of(place, part, schema), parts)


def _rows_of(place: Place, part: Part, schema: pa.Schema) -> pa.RecordBatch:
    carried = [name for name in schema.names if name in part.columns]
    try:
        with place.open(part.name) as file:
            table = pq.read_table(file, columns=["path", "sha256", "embedding", *carried])
    except (pa.ArrowException, OSError) as e:
        raise _broken(place, part.name, e) from e
    table = table.filter(table["embedding"].is_valid()).combine_chunks()
    flat = pc.cast(table["embedding"].combine_chunks().flatten(), pa.float32()).to_numpy()
    good = has_direction(flat.reshape(-1, part.spec.dim))  # [N]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=schema.field("vector").type)
    arrays = {"vector": vectors, "_part": pa.array(np.full(len(good), part.mark, np.uint64))}
    arrays |= {name: table[name].combine_chunks() for name in ("path", "sha256", *carried)}
    rows = pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)
    return rows if good.all() else rows.filter(pa.array(good))


def _look_at(place: Place, name: str) -> Part:
    try:
        with place.open(name) as file:
            tail = _tail(file)
        schema = pq.read_schema(io.BytesIO(tail))
        info = part_info(io.BytesIO(tail))
        spec = VectorSpec.model_validate_json(schema.metadata[VECTORS_KEY])
    except (pa.ArrowException, OSError) as e:
        raise _broken(place, name, e) from e
    except (KeyError, TypeError, ValidationError) as e:
        raise BulkError(
            f"{place}/{name} does not say what its vectors are; it is none of bulk.embed's parts, or of another Maeve"
        ) from e
    kind = schema.field("embedding").type if "embedding" in schema.names else None
    if kind not in (pa.list_(pa.float32(), spec.dim), pa.list_(pa.float16(), spec.dim)):
        raise BulkError(f"{place}/{name} lacks embeddings of {spec.dim} numbers; it has {kind or 'no such column'}")
    columns = {field.name: str(field.type) for field in schema if field.name not in _OWN}
    mark = sha256(name.encode() + b"\0" + _footer(tail)).digest()
    shortened = int.from_bytes(mark[:8], "big") >> (64 - _MARK_BITS)
    num_vectors = info.num_rows - info.num_errors
    num_directed = int(pq.read_metadata(io.BytesIO(tail)).metadata.get(DIRECTED_KEY, num_vectors))
    return Part(name, shortened, info.num_rows, num_vectors, num_directed, spec, columns)


def _tail(file: BinaryIO) -> bytes:
    """The end of a Parquet file, with its whole footer."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    if (missing := _footer_bytes(tail) - len(tail)) > 0:
        file.seek(max(0, size - len(tail) - missing))
        tail = file.read()
    return tail


def _footer(tail: bytes) -> bytes:
    """The file's description of itself, with its length and the format's mark at the end."""
    return tail[-_footer_bytes(tail) :]


def _footer_bytes(tail: bytes) -> int:
    if len(tail) < 8 or not tail.endswith(_MAGIC):
        raise pa.ArrowInvalid("it does not end as a Parquet file does")
    return 8 + int.from_bytes(tail[-8:-4], "little")


def _broken(place: Place, name: str, error: Exception) -> BulkError:
    return BulkError(
        f"{place}/{name} cannot be read: {str(error).splitlines()[0]}; delete it, and the same bulk.embed command "
        "makes it again"
    )


def _short(value: object) -> str:
    """Of a digest as much as one compares by eye."""
    return str(value)[:12]


def _ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What `work` makes of each, in order, some of it ahead on threads."""
    threads, left = ThreadPoolExecutor(_AT_ONCE), iter(items)
    try:
        begun = deque(threads.submit(work, item) for item in islice(left, _AT_ONCE))
        while begun:
            done = begun.popleft().result()
            begun.extend(threads.submit(work, item) for item in islice(left, 1))
            yield done
    finally:
        threads.shutdown(cancel_futures=True)
