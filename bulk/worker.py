"""What a Ray actor does: a piece is read, embedded and written as one part, by all threads of a device.

Two pieces are in work at once, so that the device is busy while one of them ends and the next begins. What goes back
through Ray is a short report; images and vectors never leave the process.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bulk.content import Unreachable
from bulk.engine import Engine
from bulk.errors import BulkError
from bulk.parts import Embedded, encode_part, good_rows, part_info, part_name, part_schema
from bulk.pieces import ReadOptions, Row
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
    """What every actor is told. lanes: calls at once on a CPU; decoders: threads beside a GPU. again: parts that are
    there, and whose errors are to be tried once more.
    """

    place: Place
    plans: Plans
    bundle: Path
    record: RunRecord
    reading: ReadOptions
    lanes: int
    decoders: int
    teller: Teller
    again: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Report:
    """Of one part. num_made: rows that were embedded now, the others were there; failure: why there is no part, which
    ends the run; deadly: there is none, as its process died over and over.
    """

    part: int
    num_rows: int = 0
    num_errors: int = 0
    num_made: int = 0
    failure: str | None = None
    deadly: bool = False

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Report:
        return cls(**json.loads(text))


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
        past = self._job.teller.past(number)
        if past.num_deaths >= TRIES:
            return Report(number, deadly=True)
        try:
            if past.is_ended:  # with another of its task, which is repeated as a whole
                return self._made_before(number)
            with self._turns.taken(alone=past.num_deaths > 0):
                return self._make_once(number)
        except MaeveError as e:
            return Report(number, failure=str(e))

    def _made_before(self, number: int) -> Report:
        with self._job.place.open(part_name(number)) as file:
            num_rows, num_errors = part_info(file)
        return Report(number, num_rows, num_errors, num_made=num_rows)

    def _make_once(self, number: int) -> Report:
        job = self._job
        job.teller.begin(number)
        try:
            kept = self._kept(number)
            num_kept = len(kept)
            reading = _Reading(read_piece(job.plans[number], job.reading, job.record.carried))
            data = encode_part(self._noted(number, self._embedded(reading, kept)), self._schema)
            reading.check(part_name(number))
            job.place.write(part_name(number), data)
        finally:
            job.teller.end(number)
        num_rows, num_errors = part_info(io.BytesIO(data))
        return Report(number, num_rows, num_errors, num_made=num_rows - num_kept)

    def _kept(self, number: int) -> dict[str, Embedded]:
        """What stays of a part whose errors are tried once more: its good rows, whatever became of the files."""
        if number not in self._job.again:
            return {}
        with self._job.place.open(part_name(number)) as file:
            return good_rows(file)

    def _embedded(self, rows: Iterable[Row], kept: dict[str, Embedded]) -> Iterator[Embedded]:
        """In the order of `rows`; what is in `kept` is taken from there, and what the source has no more comes last."""
        passed = deque[str]()  # paths that were read, and have not come out

        def unmade() -> Iterator[Row]:
            for row in rows:
                passed.append(row.path)
                if row.path not in kept:
                    yield row

        old = dict(kept)
        for row in self._engine.embed(unmade()):
            while (path := passed.popleft()) in kept:
                yield old.pop(path)
            yield row
        yield from old.values()

    def _noted(self, number: int, rows: Iterable[Embedded]) -> Iterator[Embedded]:
        """The rows; how many there are so far is told now and then."""
        told_at = time.monotonic()
        for count, row in enumerate(rows, 1):
            yield row
            if time.monotonic() - told_at > _NOTE_EVERY_S:
                told_at = time.monotonic()
                self._job.teller.note(number, count)


class _Reading:
    """Rows, counted as they pass: whether a store gave any of them, or does not let this machine in."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = rows
        self._num_rows = self._num_unreachable = 0
        self._why = ""

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self._num_rows += 1
            if isinstance(row.data, Unreachable):
                self._num_unreachable += 1
                self._why = self._why or f"{row.path}: {row.data}"
            yield row

    def check(self, part: str) -> None:
        """BulkError if nothing was reached: such a part would count as finished, though its images may be fine."""
        if self._num_rows and self._num_unreachable == self._num_rows:
            raise BulkError(f"no image of {part} could be reached, so it is not written ({self._why})")


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


def _check_bundle(bundle: Bundle, digest: str) -> None:
    if bundle.manifest.digest != digest:
        raise BundleError(f"{bundle.path} is no longer the bundle that the run began with; leave it as it is")
