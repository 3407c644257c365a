"""The course of python -m bulk.embed: the source is listed, what is new in it planned, and what has no part yet made.

A part that is there is finished. So going on needs no state but the plans and the parts themselves.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

from bulk.choice import chosen
from bulk.cluster import layout_of, make_parts, ray_running, stoppable, watching
from bulk.display import displayed
from bulk.embed import STOPPED, EmbedConfig
from bulk.engine import check_channels
from bulk.errors import RunFailed
from bulk.finding import absolute
from bulk.listing import list_pieces
from bulk.parts import part_name
from bulk.pieces import Listing, ReadOptions
from bulk.place import Place, open_place
from bulk.plan import Plans, unplanned
from bulk.progress import track
from bulk.record import RunRecord, check_same, read_record, write_record
from bulk.state import ERRORS, State, write_errors
from bulk.worker import TRIES, Job
from bundle.cli.ending import BAD_RESULT
from bundle.cli.version import maeve_version
from bundle.cli.words import counted
from bundle.manifest import Manifest
from bundle.store import Bundle, load_bundle
from bundle.vectors import VectorSpec

_SHOWN = 3  # errors at the end


def embed(config: EmbedConfig) -> None:
    """Raises BulkError, BundleError, RuntimeUnavailable and SourceError before anything is made; RunFailed, and Stopped
    on SIGTERM, with all kept that is finished. Exits with BAD_RESULT where not one image could be read.
    """
    begun = time.perf_counter()
    bundle = load_bundle(config.bundle)
    check_channels(bundle.manifest)
    place = open_place(config.out)
    read_record(place)  # before the lock, which makes a folder: none among other people's things
    with ExitStack() as stack:
        stack.enter_context(place.locked())
        ray = None if config.address is None else stack.enter_context(ray_running(config.address))
        record, plans = _prepare(config, bundle.manifest, place, ray)
        state = State.of(place, plans)
        todo = state.todo(retry_errors=config.retry_errors)
        if todo:
            ray = ray or stack.enter_context(ray_running(None))
            stack.enter_context(stoppable(STOPPED))
            _make(config, bundle, state, todo, record, ray)
        write_errors(place, state.errors())
    _tell(state, config, seconds=time.perf_counter() - begun)


def _prepare(config: EmbedConfig, manifest: Manifest, place: Place, ray: Any) -> tuple[RunRecord, Plans]:
    """The record and the plans, both on their place, whether this run begins or goes on."""
    before = read_record(place)
    engine = chosen(manifest, config, before, ray)
    vectors = VectorSpec(
        bundle=manifest.name, digest=manifest.digest, precision=engine.precision, dim=manifest.model.dim,
        pooling=config.pooling or manifest.pooling, normalize=config.normalize, keep=config.keep, dtype=config.dtype,
    )  # fmt: skip
    listing = _list(config, before)
    record = RunRecord(
        created_at=datetime.now(UTC).replace(microsecond=0), sources=tuple(map(_recorded, config.sources)),
        vectors=vectors, engine=engine, image_column=config.image_column, carried=dict(listing.columns),
        max_pixels=config.max_pixels, max_file_bytes=config.max_file_bytes, versions=_versions(engine.runtime),
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


def _list(config: EmbedConfig, before: RunRecord | None) -> Listing:
    with track("listing", None, unit="files") as bar:
        carried = None if before is None else before.carried
        listing = list_pieces(config.sources, _reading(config), carried=carried, progress=bar.show)
    if listing.num_duplicates:
        told = counted(listing.num_duplicates, "image")
        print(f"{told} named more than once, and embedded once", file=sys.stderr)
    return listing


def _make(config: EmbedConfig, bundle: Bundle, state: State, todo: Sequence[int], record: RunRecord, ray: Any) -> None:
    """Every part of `todo`. RunFailed or BulkError for the first that cannot be made."""
    layout = layout_of(ray, record.engine.device, config.num_actors)
    engine = f"{record.engine.runtime} on {record.engine.device} in {record.engine.precision}"
    print(f"{counted(len(todo), 'part')} to make with {engine}, {layout}", file=sys.stderr)
    with displayed(state, todo) as display, watching(ray, display.tell) as teller:
        job = Job(
            place=state.place, plans=state.plans, bundle=bundle.path.absolute(), record=record,
            reading=_reading(config), lanes=layout.lanes, decoders=layout.decoders, teller=teller, again=state.again,
        )  # fmt: skip
        for report in make_parts(ray, job, todo, layout):
            display.take(report)
    if missing := len(todo) - len(state.made) - len(state.deadly):
        raise RunFailed(f"Ray gave up {counted(missing, 'part')}; the same command makes them")


def _tell(state: State, config: EmbedConfig, *, seconds: float) -> None:
    """The summary, on stdout. RunFailed for parts that could not be made."""
    there = f"{counted(state.num_images, 'image')} in {counted(len(state.parts), 'part')}"
    if state.made:
        rate = f"{state.num_made / seconds:,.0f} img/s"
        print(f"{state.place}: {there}; {state.num_made:,} of them now, in {seconds:.1f} s, {rate}")
    else:
        print(f"{state.place}: nothing new; {there}")
    if state.num_errors:
        print(f"{counted(state.num_errors, 'error')}, all listed in {state.place}/{ERRORS}:")
        for path, error in islice(state.errors(), _SHOWN):
            print(f"  {path}: {error}")
    if state.deadly:
        names = ", ".join(part_name(number) for number in sorted(state.deadly)[:_SHOWN])
        raise RunFailed(
            f"{counted(len(state.deadly), 'part')} not made ({names}): the process died {TRIES} times over each; "
            f"where memory ran out, fewer actors or rows help (--num-actors); the same command tries again"
        )
    if state.num_images and state.num_errors == state.num_images:
        print("not one image could be read", file=sys.stderr)
        sys.exit(BAD_RESULT)
    print(f"next: python -m bulk.index {config.out}")


def _reading(config: EmbedConfig) -> ReadOptions:
    return ReadOptions(
        max_file_bytes=config.max_file_bytes, rows_per_piece=config.rows_per_part, image_column=config.image_column,
        columns=config.wanted_columns,
    )  # fmt: skip


def _recorded(source: str) -> str:
    """Its absolute name. One that is no UTF-8 has no spelling in JSON but this."""
    return os.fsencode(absolute(source)).decode(errors="backslashreplace")


def _versions(runtime: str) -> dict[str, str]:
    package = {"tensorrt": "tensorrt", "openvino": "openvino"}.get(runtime, "onnxruntime")
    found = {"maeve": maeve_version(), "python": platform.python_version()}
    for name in (package, "numpy", "pillow", "simplejpeg", "ray", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # such as onnxruntime where onnxruntime-gpu is installed
            continue
    return found
