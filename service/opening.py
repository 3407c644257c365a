"""From settings to an engine: the bundle is loaded, its runtime opened, held against the bundle and warmed up.

What a process does at its start and again when the bundle is replaced, without the web around it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np

from bundle.errors import OutOfMemory, RuntimeUnavailable
from bundle.manifest import Manifest
from bundle.masking import keep_ids, random_masking
from bundle.store import Bundle, load_bundle
from runtime import Runtime
from runtime.selfcheck import prove
from service.decoding import make_decoder
from service.device import LocalDevice
from service.engine import Engine
from service.metrics import Metrics
from service.options import EmbedQuery, ReconstructQuery
from service.programs import Item, Program, Programs
from service.settings import Settings

log = logging.getLogger(__name__)

_WARM_UP_S = 10  # a large model on a CPU needs seconds for a batch, and gains nothing from a warm-up


@dataclass(frozen=True)
class Opened:
    """A bundle and the runtime that was proven on it; whoever has it closes the runtime."""

    bundle: Bundle
    runtime: Runtime

    def __str__(self) -> str:
        manifest, runtime = self.bundle.manifest, self.runtime
        details = "".join(f", {name} {value}" for name, value in runtime.details.items())
        return (
            f"{manifest.name} ({manifest.digest[:12]}) with {runtime.name} on {runtime.device} in {runtime.precision}, "
            f"{runtime.lanes} lanes{details}"
        )


def load(settings: Settings) -> Bundle:
    """The bundle as it is now. BundleError as from load_bundle."""
    return load_bundle(settings.bundle_folder())


def open_bundle(bundle: Bundle, settings: Settings, runtime: Runtime | None = None) -> Opened:
    """Open the runtime, unless it is given, prove it, and run each of its programs once. It takes seconds, and any
    thread will do. If it fails, the runtime is closed.

    RuntimeUnavailable, also where the runtime runs on another device than was asked for, and BundleError.
    """
    opened = runtime or settings.open_runtime(bundle)
    try:
        check_device(opened.device, settings.device)
        prove(bundle, opened)
        warm_up(bundle.manifest, opened, max_batch=settings.max_batch or opened.max_batch)
    except BaseException:
        opened.close()
        raise
    return Opened(bundle, opened)


async def start_engine(opened: Opened, settings: Settings, metrics: Metrics) -> Engine:
    """An engine that is ready for requests, on lanes of this process; it closes the runtime, also if this fails."""
    device = local_device(opened.bundle, opened.runtime, settings, metrics)
    try:
        engine = Engine(opened.bundle, device, settings, metrics)
    except BaseException:
        await device.close()
        raise
    await engine.warm_up()
    return engine


def local_device(bundle: Bundle, runtime: Runtime, settings: Settings, metrics: Metrics) -> LocalDevice:
    """A lane that is a core decodes its images best itself: another thread would only share that core. A device beside
    the cores wants its images ready.
    """
    on_lanes = settings.decode_threads == 0 or (settings.decode_threads is None and runtime.device == "cpu")
    return LocalDevice(
        Programs(bundle.manifest, runtime), runtime, metrics, max_batch=settings.max_batch or runtime.max_batch,
        decoder=make_decoder(bundle.manifest, settings) if on_lanes else None, stall_s=settings.stall_s,
    )  # fmt: skip


def check_device(device: str, asked: str) -> None:
    """RuntimeUnavailable unless `device` is what was asked for: "auto" is any, "cuda" is any GPU."""
    if not is_asked_for(device, asked):
        raise RuntimeUnavailable(f"the runtime computes on {device}, and {asked} was asked for; use device {device}")


def is_asked_for(device: str, asked: str) -> bool:
    """Whether a setting that says `asked` is content with `device`."""
    return asked in ("auto", device) or (asked == "cuda" and device.startswith("cuda:"))


def warm_up(manifest: Manifest, runtime: Runtime, *, max_batch: int) -> None:
    """Run what requests will run, in batches of 1, 2, 4, ... up to `max_batch`: the first call of a size allocates and
    chooses kernels. What is not done after ten seconds, or does not fit, is left to the first requests.

    The fake has nothing to warm. InferenceError if a graph fails.
    """
    if runtime.name == "fake":
        return
    programs = Programs(manifest, runtime)
    until = time.monotonic() + _WARM_UP_S
    for size in _batch_sizes(max_batch):
        for program, item in _everyday(manifest):
            if time.monotonic() > until:
                log.info("warmed up to batches below %d, the rest is left to the first requests", size)
                return
            try:
                programs.run(program, [item] * size)
            except OutOfMemory:
                log.warning("%s: a batch of %d does not fit into the memory of %s", program.operation, size,
                            runtime.device)  # fmt: skip
                return


def _batch_sizes(max_batch: int) -> list[int]:
    """The powers of two below it, and itself."""
    return [*(2**n for n in range((max_batch - 1).bit_length())), max_batch]


def _everyday(manifest: Manifest) -> list[tuple[Program, Item]]:
    """The requests that say nothing of what they want, on an image of nothing."""
    model = manifest.model
    pixels = np.zeros((*model.image_size, model.channels), np.uint8)
    ids = keep_ids(model.num_patches, 1)
    everyday = [(Program("embed", len(ids), EmbedQuery().poolings(manifest.pooling)), Item(pixels, ids))]
    if manifest.can_classify:
        everyday.append((Program("classify", len(ids)), Item(pixels, ids)))
    if manifest.can_reconstruct:
        masking = random_masking(model.num_patches, ReconstructQuery().ratio, 0)
        item = Item(pixels, masking.ids_keep, masking.ids_restore)
        everyday.append((Program("reconstruct", len(masking.ids_keep)), item))
    return everyday
