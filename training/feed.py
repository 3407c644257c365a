"""From the order of an epoch to batches on the device, so that the device never waits.

Three feeds, by where the pixels live: on the device itself (`resident`), in a memory map that threads read ahead
(`mapped`), or in the encoded images, which threads decode ahead (`stream`). Letters: B images of one process in a step,
S_h x S_w pixels as packed, C channels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.compute import FeedName
from training.errors import TrainingError
from training.packed import PackedDataset, epoch_order
from training.stream import StreamingDataset

Images = PackedDataset | StreamingDataset
Read = Callable[[int], NDArray[np.uint8]]

_RESIDENT_SHARE = 0.5  # of the device's free memory: the network needs the rest
_AHEAD = 4  # batches
_READERS = {"cuda": 4, "cpu": 1}  # on a CPU the readers share the cores with the training
_COPY_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which images each process has in each step: a random order per epoch, in whole global batches.

    batch_size: of all processes together, a multiple of `world_size`. subset: i64 [num_images], the images that take
    part; None: all. order: what it depends on besides the seed.
    """

    num_images: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    subset: NDArray[np.int64] | None = None
    order: str = "packed"

    @property
    def per_epoch(self) -> int:
        """Steps; what does not fill a batch waits for another epoch's order."""
        return self.num_images // self.batch_size

    @property
    def course(self) -> dict[str, Any]:
        """What of the steps must not change when a run goes on."""
        return {"batch_size": self.batch_size, "steps_per_epoch": self.per_epoch, "order": self.order}

    @property
    def rows(self) -> slice:
        """This process's rows of a global batch: every so many, since neighbours in a folder are often of one class."""
        return slice(self.rank, None, self.world_size)

    @property
    def of_all(self) -> Plan:
        """The same with all processes' rows."""
        return replace(self, rank=0, world_size=1)

    def ids(self, step: int) -> NDArray[np.int64]:
        """Of a packed set's images: i64 [B], ascending within a global batch, as a disk likes them."""
        epoch, place = divmod(step, self.per_epoch)
        order = epoch_order(self.num_images, epoch, self.seed)
        ids = np.sort(order[place * self.batch_size : (place + 1) * self.batch_size])[self.rows]
        return ids if self.subset is None else self.subset[ids]


class Feed(Protocol):
    """Batches on a device. name: what it is called where it is printed; waited_s: seconds spent waiting in `get`."""

    name: str
    waited_s: float

    def get(self, step: int) -> Tensor:
        """u8 [B, C, S_h, S_w] on the device; steps are asked for in ascending order."""

    def close(self) -> None:
        """End the feed's threads."""


class ResidentFeed:
    """The whole set lives on the device, where a batch is one gather."""

    def __init__(self, packed: PackedDataset, plan: Plan, device: torch.device) -> None:
        size = f"{num_bytes(packed) / 1e9:.1f} GB"
        self.name, self.waited_s = f"resident, {size} on {device}", 0.0
        self._plan, self._device = plan, device
        self._pixels = torch.empty(
            (len(packed), *packed.info.size, packed.info.channels), dtype=torch.uint8, device=device
        )
        rows = max(1, _COPY_BYTES * len(packed) // num_bytes(packed))
        for start in range(0, len(packed), rows):
            ids = np.arange(start, min(start + rows, len(packed)))
            self._pixels[start : start + len(ids)] = torch.from_numpy(packed.pixels(ids)).to(device)

    def get(self, step: int) -> Tensor:
        ids = torch.from_numpy(self._plan.ids(step))
        if self._device.type == "cuda":
            ids = ids.pin_memory().to(self._device, non_blocking=True)
        return self._pixels.index_select(0, ids).permute(0, 3, 1, 2)  # [B, C, S_h, S_w]

    def close(self) -> None:
        self._pixels = self._pixels[:0]


class AheadFeed:
    """Threads read the next batches while the device computes, and on a GPU copy them there from pinned memory.

    read: step -> u8 [B, S_h, S_w, C], called from several threads. What it raises comes out of `get`.
    """

    def __init__(self, read: Read, device: torch.device, name: str, *, readers: int | None = None) -> None:
        self.name, self.waited_s = name, 0.0
        self._read, self._device = read, device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        own = None if device.type == "cpu" else partial(torch.cuda.set_device, device)  # a thread begins on GPU 0
        self._readers = ThreadPoolExecutor(readers or _READERS[device.type], "feed", own)
        self._next = 0
        self._ahead: deque[Future[tuple[Tensor, torch.cuda.Event | None]]] = deque()

    def get(self, step: int) -> Tensor:
        start = time.perf_counter()
        if step != self._next - len(self._ahead):  # the first step of a run, or of one that goes on
            self._ahead.clear()
            self._next = step
        while len(self._ahead) < _AHEAD:
            self._ahead.append(self._readers.submit(self._load, self._next))
            self._next += 1
        pixels, copied = self._ahead.popleft().result()
        if copied is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(copied)
            pixels.record_stream(now)
        self.waited_s += time.perf_counter() - start
        return pixels.permute(0, 3, 1, 2)  # [B, C, S_h, S_w]

    def close(self) -> None:
        self._ahead.clear()
        self._readers.shutdown(wait=True, cancel_futures=True)

    def _load(self, step: int) -> tuple[Tensor, torch.cuda.Event | None]:
        pixels = torch.from_numpy(self._read(step))
        if self._copies is None:
            return pixels, None
        with torch.cuda.stream(self._copies):
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
            return pixels, self._copies.record_event()


def open_feed(images: Images, plan: Plan, device: torch.device, choice: FeedName = "auto") -> Feed:
    """`auto`: resident where the device is a GPU and the set takes at most half of its free memory, else mapped.

    A stream is read ahead whatever the choice. Raises TrainingError where a resident feed is asked for and the device
    does not hold it, and where a packed set is to be streamed.
    """
    if isinstance(images, StreamingDataset):
        local = plan.batch_size // plan.world_size
        return AheadFeed(lambda step: images.batch_at(step, local), device, "stream, decoded ahead", readers=1)
    if choice == "stream":
        raise TrainingError(f"{images.folder} is packed already; leave out --feed stream")
    size = num_bytes(images)
    if choice == "auto":
        fits = device.type == "cuda" and size <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
        choice = "resident" if fits else "mapped"
    if choice == "mapped":
        return AheadFeed(lambda step: images.pixels(plan.ids(step)), device, f"mapped, {size / 1e9:.1f} GB on disk")
    try:
        return ResidentFeed(images, plan, device)
    except torch.OutOfMemoryError as e:
        raise TrainingError(
            f"{device} does not hold the {size / 1e9:.1f} GB of {images.folder}; use --feed mapped"
        ) from e


def num_bytes(packed: PackedDataset) -> int:
    """Of all pixels."""
    return len(packed) * packed.info.size[0] * packed.info.size[1] * packed.info.channels
