"""What a Ray actor does: a piece is read, embedded and written as one part, by all threads of a device.

Two pieces are in work at once, so that the device is busy while one of them ends and the next begins. What goes back
through Ray is a short report; images and vectors never leave the process.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from bulk.watch import Teller
from bundle.errors import BundleError, MaeveError
from bundle.store import Bundle, load_bundle
from runtime import open_runtime
from runtime.selfcheck import prove

CALLS_AT_ONCE = 2
TRIES = 4  # of a part whose process dies each time: by then it is the part's own doing
_NOTE_EVERY_S = 1.0


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
    teller: Teller


@dataclass(frozen=True)
class Report:
    """Of one part. errors: (path, error) of rows; failure: why there is no part, which ends the run; deadly: there is
    none, as its process died over and over.
    """

    part: int
    num_rows: int = 0
    errors: tuple[tuple[str, str], ...] = ()
    failure: str | None = None
    deadly: bool = False

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
        self._turns = _Turns()
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
        num_begun = self._job.teller.num_begun(number)
        if num_begun >= TRIES:
            return Report(number, deadly=True)
        with self._turns.taken(alone=num_begun > 0):
            return self._make_once(number)

    def _make_once(self, number: int) -> Report:
        self._job.teller.begin(number)
        try:
            rows = list(self._embedded(number))
            self._job.place.write(part_name(number), encode_part(rows, self._schema))
        except MaeveError as e:
            return Report(number, failure=str(e))
        finally:
            self._job.teller.end(number)
        return Report(number, len(rows), errors_of(rows))

    def _embedded(self, number: int) -> Iterator[Embedded]:
        """The part's rows; how many there are so far is told now and then."""
        job = self._job
        told_at = time.monotonic()
        rows = self._engine.embed(read_piece(job.plans[number], job.reading, job.record.carried))
        for count, row in enumerate(rows, 1):
            yield row
            if time.monotonic() - told_at > _NOTE_EVERY_S:
                told_at = time.monotonic()
                job.teller.note(number, count)


class _Turns:
    """Parts are made beside each other; one that was begun in a process that died is made alone, so that its neighbour
    is not taken for the cause, and more memory is left.
    """

    def __init__(self) -> None:
        self._free = threading.Semaphore(CALLS_AT_ONCE)
        self._taking = threading.Lock()

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        places = CALLS_AT_ONCE if alone else 1
        with self._taking:  # whoever waits for all places gets them before others take one
            for _ in range(places):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(places)


def open_engine(job: Job) -> Engine:
    """Opened and proven, as the service does at its start. BundleError, RuntimeUnavailable."""
    bundle = load_bundle(job.bundle)
    vectors, wanted = job.record.vectors, job.record.engine
    _check_bundle(bundle, vectors.digest)
    lanes = job.lanes if wanted.device == "cpu" else None
    runtime = open_runtime(bundle, wanted.runtime, device=wanted.device, precision=wanted.precision, lanes=lanes)
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
