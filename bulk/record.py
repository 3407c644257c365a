"""`_maeve/run.json`: what the output's vectors are and what they were made from, so that no run goes on with others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bulk.errors import BulkError
from bulk.parts import PART_NAME
from bulk.pieces import ColumnType
from bulk.place import STATE, Place, read
from bundle.vectors import VectorSpec
from runtime import RuntimeName, ServedPrecision

RECORD = f"{STATE}/run.json"
_OURS = frozenset({STATE, "_index"})  # the second is what bulk.index makes


class Engine(BaseModel):
    """Resolved: never auto. device: cpu, or cuda, which is one GPU for each actor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runtime: RuntimeName
    device: Literal["cpu", "cuda"]
    precision: ServedPrecision


class RunRecord(BaseModel):
    """sources: absolute, or by URL. carried: the columns beside the vectors. versions: of what computed them first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    created_at: datetime
    sources: tuple[str, ...]
    vectors: VectorSpec
    engine: Engine
    image_column: str | None
    carried: dict[str, ColumnType]
    max_pixels: int
    max_file_bytes: int
    versions: dict[str, str]


def read_record(place: Place) -> RunRecord | None:
    """None where no run has begun. BulkError for a place that holds anything else, or a record that is not read."""
    if "run.json" not in place.names(STATE):
        _refuse_strangers(place)
        return None
    try:
        return RunRecord.model_validate_json(read(place, RECORD))
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise BulkError(
            f"{place}/{RECORD} is damaged or of another Maeve ({where}: {first['msg']}); choose another --out"
        ) from e


def write_record(place: Place, record: RunRecord) -> None:
    place.write(RECORD, record.model_dump_json(indent=2).encode() + b"\n")


def check_same(place: Place, before: RunRecord, now: RunRecord) -> None:
    """BulkError naming all that differs in a way that would mix vectors, or rows, that do not belong together."""
    ours, theirs = _described(now), _described(before)
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing:
        listed = "; ".join(f"{name} was {theirs[name]}, and is now {ours[name]}" for name in differing)
        raise BulkError(f"{place} was begun otherwise: {listed}. Go on with what it was, or choose another --out")


def _refuse_strangers(place: Place) -> None:
    """Hidden files, such as desktops leave everywhere, are nobody's output."""
    found = sorted(name for name in place.names() if name not in _OURS and not name.startswith("."))
    if not found:
        return
    if PART_NAME.match(found[0]):
        raise BulkError(f"{place} holds parts, and no {RECORD} that says what they are; choose another --out")
    raise BulkError(f"{place} holds other things ({found[0]}); choose a folder that is empty or not there yet as --out")


def _described(record: RunRecord) -> Mapping[str, Any]:
    """What must not change, under the names that the command line has for it."""
    vectors, engine = record.vectors, record.engine
    return {
        "SRC": _listed(record.sources),
        "--bundle": f"{vectors.bundle} ({vectors.digest[:12]})",
        "--pooling": vectors.pooling,
        "--keep": f"{vectors.keep:g}",
        "--normalize": "on" if vectors.normalize else "off",
        "--dtype": vectors.dtype,
        "--runtime": engine.runtime,
        "--device": engine.device,
        "--precision": engine.precision,
        "--image-column": record.image_column or "found by its type",
        "the columns": _listed(tuple(f"{name} {kind}" for name, kind in record.carried.items())) or "none",
        "--max-pixels": record.max_pixels,
        "--max-file-bytes": record.max_file_bytes,
    }


def _listed(names: tuple[str, ...]) -> str:
    """Of many the first and the number, and a mark of all, so that two lists look alike only if they are."""
    if len(names) <= 4:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1:,} more (list {_mark(names)})"


def _mark(names: tuple[str, ...]) -> str:
    from hashlib import sha256

    return sha256("\0".join(names).encode()).hexdigest()[:8]
