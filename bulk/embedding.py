"""The course of python -m bulk.embed: the source is listed, what is new in it planned, and what has no part yet made.

A part that is there is finished. So going on needs no state but the plans and the parts themselves.
"""

from __future__ import annotations

import csv
import io
import platform
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from bulk.choice import chosen
from bulk.cluster import layout_of, make_parts, ray_running, stoppable
from bulk.embed import STOPPED, EmbedConfig
from bulk.engine import check_channels
from bulk.errors import BulkError, RunFailed
from bulk.listing import list_pieces
from bulk.parts import PART_NAME, PartInfo, part_errors, part_info, part_name
from bulk.pieces import Listing, ReadOptions
from bulk.place import STATE, Place, open_place
from bulk.plan import Plans, unplanned
from bulk.progress import Bar, track
from bulk.record import RunRecord, check_same, read_record, write_record
from bulk.worker import Job, Report
from bundle.cli.ending import BAD_RESULT
from bundle.cli.version import maeve_version
from bundle.cli.words import counted
from bundle.manifest import Manifest
from bundle.store import Bundle, load_bundle
from bundle.vectors import VectorSpec

ERRORS = f"{STATE}/errors.csv"
_FOOTERS_AT_ONCE = 16
_SHOWN = 3  # errors at the end
_RATE_OVER_S = 30.0


def embed(config: EmbedConfig) -> None:
    """Raises BulkError, BundleError, RuntimeUnavailable and SourceError before anything is made; RunFailed, and Stopped
    on SIGTERM, with all kept that is finished. Exits with BAD_RESULT where not one image could be read.
    """
    bundle = load_bundle(config.bundle)
    check_channels(bundle.manifest)
    place = open_place(config.out)
    read_record(place)  # before the lock, which makes a folder: none among other people's things
    with ExitStack() as stack:
        stack.enter_context(place.locked())
        ray = None if config.address is None else stack.enter_context(ray_running(config.address))
        record, plans = _prepare(config, bundle.manifest, place, ray)
        state = _State.of(place, plans)
        todo = state.todo(retry_errors=config.retry_errors)
        if todo:
            ray = ray or stack.enter_context(ray_running(None))
            stack.enter_context(stoppable(STOPPED))
            _make(config, bundle, state, todo, record, ray)
    _conclude(state, config, made=bool(todo))


@dataclass
class _State:
    """What is finished. parts: by number; failed: (path, error) by the parts that this run made."""

    place: Place
    plans: Plans
    parts: dict[int, PartInfo]
    failed: dict[int, Sequence[tuple[str, str]]] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    num_made: int = 0

    @classmethod
    def of(cls, place: Place, plans: Plans) -> _State:
        """A part that no reader of Parquet takes, because somebody else damaged it, is none."""
        there = sorted(int(match[1]) for name in place.names() if (match := PART_NAME.match(name)))
        strange = [number for number in there if number >= len(plans)]
        if strange:
            raise BulkError(f"{place}/{part_name(strange[0])} is of no plan in {STATE}; choose another --out")
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            infos = list(pool.map(lambda number: _info(place, number), there))
        return cls(place, plans, {n: info for n, info in zip(there, infos, strict=True) if info is not None})

    def todo(self, *, retry_errors: bool) -> list[int]:
        """The numbers of the parts to make, in order."""
        return [
            number for number in range(len(self.plans))
            if (info := self.parts.get(number)) is None or (retry_errors and info.num_errors)
        ]  # fmt: skip

    def take(self, report: Report) -> None:
        self.parts[report.part] = PartInfo(report.num_rows, len(report.errors))
        self.failed[report.part] = report.errors
        self.num_made += report.num_rows

    @property
    def num_images(self) -> int:
        return sum(info.num_rows for info in self.parts.values())

    @property
    def num_errors(self) -> int:
        return sum(info.num_errors for info in self.parts.values())

    def errors(self) -> Iterator[tuple[str, str]]:
        """(path, error), part by part."""
        for number in sorted(self.parts):
            if number in self.failed:
                yield from self.failed[number]
            elif self.parts[number].num_errors:
                with self.place.open(part_name(number)) as file:
                    yield from part_errors(file)


def _info(place: Place, number: int) -> PartInfo | None:
    with place.open(part_name(number)) as file:
        try:
            return part_info(file)
        except (pa.ArrowException, ValueError, AttributeError):
            return None


def _prepare(config: EmbedConfig, manifest: Manifest, place: Place, ray: Any) -> tuple[RunRecord, Plans]:
    """The record and the plans, both on their place, whether this run begins or goes on."""
    before = read_record(place)
    engine, precision = chosen(manifest, config, before, ray)
    vectors = VectorSpec(
        bundle=manifest.name, digest=manifest.digest, precision=precision, pooling=config.pooling or manifest.pooling,
        normalize=config.normalize, keep=config.keep, dim=manifest.model.dim, dtype=config.dtype,
    )  # fmt: skip
    listing = _list(config)
    record = RunRecord(
        created_at=datetime.now(UTC).replace(microsecond=0), sources=config.sources, vectors=vectors, engine=engine,
        image_column=config.image_column, carried=dict(listing.columns), max_pixels=config.max_pixels,
        max_file_bytes=config.max_file_bytes, versions=_versions(engine.runtime),
    )  # fmt: skip
    if before is not None:
        check_same(place, before, record)
        record = before
    else:
        write_record(place, record)
    plans = Plans.of(place)
    if new := unplanned(plans, listing.pieces, config.rows_per_part):
        plans = plans.extended(new)
    return record, plans


def _list(config: EmbedConfig) -> Listing:
    with track("listing", None, unit="files") as bar:
        listing = list_pieces(config.sources, _reading(config), progress=bar.advance)
    if not listing.pieces:
        raise BulkError(f"{' '.join(config.sources)}: no images there")
    if listing.num_duplicates:
        told = counted(listing.num_duplicates, "image")
        print(f"{told} named more than once, and embedded once", file=sys.stderr)
    return listing


def _make(config: EmbedConfig, bundle: Bundle, state: _State, todo: Sequence[int], record: RunRecord, ray: Any) -> None:
    """Every part of `todo`. RunFailed or BulkError for the first that cannot be made."""
    layout = layout_of(ray, record.engine.device, config.num_actors)
    job = Job(
        place=state.place, plans=state.plans, bundle=bundle.path.absolute(), record=record, reading=_reading(config),
        lanes=layout.lanes, decoders=layout.decoders,
    )  # fmt: skip
    engine = f"{record.engine.runtime} on {record.engine.device} in {record.vectors.precision}"
    print(f"{counted(len(todo), 'part')} to make with {engine}, {layout}", file=sys.stderr)
    counts = state.plans.counts()
    left = [counts[number] for number in todo]
    known = None not in left
    kept = [info.num_rows for number, info in state.parts.items() if number not in set(todo)]
    done = sum(kept) if known else len(kept)
    total = done + sum(count or 0 for count in left) if known else len(state.plans)
    with track("embedding", total, done=done, unit="images" if known else "parts") as bar:
        pace = _Pace()
        for report in make_parts(ray, job, todo, layout):
            if report.failure is not None:
                raise BulkError(report.failure)
            state.take(report)
            _advance(bar, state, report, pace.add(report.num_rows), in_images=known)
    missing = [number for number in todo if number not in state.failed]
    if missing:
        raise RunFailed(f"Ray gave up {counted(len(missing), 'part')}; the same command makes them")


def _advance(bar: Bar, state: _State, report: Report, rate: float, *, in_images: bool) -> None:
    notes = [f"{rate:,.0f} img/s"] if in_images else [f"{state.num_images:,} images", f"{rate:,.0f} img/s"]
    if state.num_errors:
        notes.append(counted(state.num_errors, "error"))
    bar.advance(report.num_rows if in_images else 1, ", ".join(notes))


class _Pace:
    """Images per second of late; parts come now and then, so that it is one over several."""

    def __init__(self) -> None:
        self._marks = deque([(time.monotonic(), 0)])

    def add(self, num_images: int) -> float:
        now = time.monotonic()
        self._marks.append((now, self._marks[-1][1] + num_images))
        while len(self._marks) > 2 and now - self._marks[1][0] > _RATE_OVER_S:
            self._marks.popleft()
        (begun, before), (ended, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(1e-9, ended - begun)


def _conclude(state: _State, config: EmbedConfig, *, made: bool) -> None:
    """The list of errors on the place, and the summary on stdout."""
    errors = list(state.errors())
    _write_errors(state.place, errors)
    images = counted(state.num_images, "image")
    if made:
        seconds = time.perf_counter() - state.started
        print(f"{state.place}: {images} in {counted(len(state.parts), 'part')}; "
              f"{state.num_made:,} of them now, in {seconds:.1f} s, {state.num_made / seconds:,.0f} img/s")  # fmt: skip
    else:
        print(f"{state.place}: nothing new; {images} in {counted(len(state.parts), 'part')}")
    if errors:
        print(f"{counted(len(errors), 'error')}, all listed in {state.place}/{ERRORS}:")
        for path, error in errors[:_SHOWN]:
            print(f"  {path}: {error}")
    if len(errors) == state.num_images:
        print("not one image could be read", file=sys.stderr)
        sys.exit(BAD_RESULT)
    print(f"next: python -m bulk.index {config.out}")


def _write_errors(place: Place, errors: Iterable[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(("path", "error"))
    rows.writerows(errors)
    place.write(ERRORS, text.getvalue().encode())


def _reading(config: EmbedConfig) -> ReadOptions:
    return ReadOptions(
        max_file_bytes=config.max_file_bytes, rows_per_piece=config.rows_per_part, image_column=config.image_column,
        columns=config.wanted_columns,
    )  # fmt: skip


def _versions(runtime: str) -> dict[str, str]:
    package = {"tensorrt": "tensorrt", "openvino": "openvino"}.get(runtime, "onnxruntime")
    found = {"maeve": maeve_version(), "python": platform.python_version()}
    for name in (package, "numpy", "pillow", "simplejpeg", "ray", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # such as onnxruntime where onnxruntime-gpu is installed
            continue
    return found
