"""What a Ray actor does: a piece is read, embedded and written as one part, by all threads of a device.

Two pieces are in work at once, so that the device is busy while one of them ends and the next begins. What goes back
through Ray is a short report; images and vectors never leave the process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bulk.engine import Engine
from bulk.parts import Embedded, encode_part, part_name, part_schema
from bulk.pieces import ReadOptions
from bulk.place import Place
from bulk.plan import Plans
from bulk.reading import read_piece
from bulk.record import RunRecord
from bundle.errors import BundleError, MaeveError
from bundle.store import Bundle, load_bundle
from runtime import open_runtime
from runtime.selfcheck import prove

CALLS_AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every actor is told. lanes: calls at once on a CPU; decoders: threads beside a GPU."""

    place: Place
    plans: Plans
    bundle: Path
    record: RunRecord
    reading: ReadOptions
    lanes: int
    decoders: int


@dataclass(frozen=True)
class Report:
    """Of one part. errors: (path, error) of rows; failure: why there is no part, which ends the run."""

    part: int
    num_rows: int = 0
    errors: tuple[tuple[str, str], ...] = ()
    failure: str | None = None

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Report:
        fields = json.loads(text)
        return cls(**fields | {"errors": tuple((path, error) for path, error in fields["errors"])})


class Embedder:
    """One for each device, or for some cores. An engine that does not open is told in the first report, in its own
    words; raised here, it would come with Ray's.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._schema = part_schema(job.record.vectors, job.record.carried)
        self._fault: str | None = None
        try:
            self._engine = open_engine(job)
        except MaeveError as e:
            self._fault = str(e)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, list[str]]:
        """batch: `part`, the numbers of parts to make. Returns `report`, a Report for each."""
        return {"report": [self._make(int(number)).encode() for number in batch["part"]]}

    def _make(self, number: int) -> Report:
        if self._fault is not None:
            return Report(number, failure=self._fault)
        try:
            piece = self._job.plans[number]
            rows = list(self._engine.embed(read_piece(piece, self._job.reading, self._job.record.carried)))
            self._job.place.write(part_name(number), encode_part(rows, self._schema))
        except MaeveError as e:
            return Report(number, failure=str(e))
        return Report(number, len(rows), errors_of(rows))


def open_engine(job: Job) -> Engine:
    """Opened and proven, as the service does at its start. BundleError, RuntimeUnavailable."""
    bundle = load_bundle(job.bundle)
    vectors, wanted = job.record.vectors, job.record.engine
    _check_bundle(bundle, vectors.digest)
    lanes = job.lanes if wanted.device == "cpu" else None
    runtime = open_runtime(bundle, wanted.runtime, device=wanted.device, precision=vectors.precision, lanes=lanes)
    try:
        prove(bundle, runtime)
        return Engine(bundle.manifest, runtime, vectors, max_pixels=job.record.max_pixels, decoders=job.decoders)
    except BaseException:
        runtime.close()
        raise


def errors_of(rows: list[Embedded]) -> tuple[tuple[str, str], ...]:
    return tuple((row.path, row.error) for row in rows if row.error is not None)


def _check_bundle(bundle: Bundle, digest: str) -> None:
    if bundle.manifest.digest != digest:
        raise BundleError(f"{bundle.path} is no longer the bundle that the run began with; leave it as it is")
