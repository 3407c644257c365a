"""Where programs run. The engine above knows this seam alone: lanes in its own process, or a process per device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from runtime import Runtime
from service.batcher import Batcher, Done
from service.cache import Vector
from service.decoding import Decoder
from service.metrics import Metrics
from service.programs import OPERATIONS, Item, Program, Programs


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """What one device is, for /info and the caches' keys. `max_batch`: images per call, as of now."""

    runtime: str
    device: str
    precision: str
    lanes: int
    max_batch: int
    details: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Computed:
    """`value`: as Programs.run gives it, read-only. `decode_s`: spent decoding on the lane, within the call."""

    value: Vector
    decode_s: float = 0.0


class Device(Protocol):
    """Runs programs on images, batched. Its methods are for the event loop's thread."""

    decodes: bool  # whether items may come encoded: its lanes decode them

    @property
    def infos(self) -> tuple[DeviceInfo, ...]:
        """One for each device behind this; the same runtime and precision for all."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a submission now would be computed."""
        ...

    @property
    def stalled_s(self) -> float:
        """Seconds that the longest of the model calls now running has taken; infinite once a lane has died."""
        ...

    @property
    def held(self) -> int:
        """Places that are taken although nobody waits: of cancelled items, until the device has let go of them."""
        ...

    def submit(self, program: Program, item: Item, *, deadline: float) -> asyncio.Future[Done[Computed]]:
        """Enqueue. `deadline`: in the loop's time; the most urgent of an operation goes first. Cancelling the future
        drops the item.

        Unavailable, here or from the future, while there is no device; the future may also hold what decoding and
        Runtime.run raise, and DeadlineExceeded for what was not begun in time.
        """
        ...

    async def close(self) -> None:
        """What is still waited for fails with Unavailable. Idempotent."""
        ...


class LocalDevice:
    """A runtime on threads of this process. Make it inside the event loop; `close` closes the runtime too.

    `decoder`: None where items come decoded. `stall_s`: how long a call may take before `close` gives it up.
    """

    def __init__(
        self,
        programs: Programs,
        runtime: Runtime,
        metrics: Metrics,
        *,
        max_batch: int,
        decoder: Decoder | None,
        stall_s: float = float("inf"),
    ) -> None:
        self.runtime = runtime
        self.decodes = decoder is not None
        self._decoder = decoder
        self._programs = programs
        self._metrics = metrics
        self._stall_s = stall_s
        self._batcher: Batcher[Program, Item, Computed] = Batcher(
            metrics.counting_busy(runtime.device, self._run), lanes=runtime.lanes, max_batch=max_batch,
            buckets=runtime.buckets, kind_of=lambda program: program.operation,
        )  # fmt: skip
        for operation in OPERATIONS:
            waiting = partial(self._batcher.num_waiting, operation)
            metrics.watch("maeve_queued_images", "Images that wait for a lane.", waiting, operation=operation)

    @property
    def infos(self) -> tuple[DeviceInfo, ...]:
        runtime = self.runtime
        info = DeviceInfo(
            runtime=runtime.name, device=runtime.device, precision=runtime.precision, lanes=runtime.lanes,
            max_batch=self._batcher.cap, details=runtime.details,
        )  # fmt: skip
        return (info,)

    @property
    def ready(self) -> bool:
        return self._batcher.alive

    @property
    def stalled_s(self) -> float:
        return self._batcher.longest_call_s if self._batcher.alive else float("inf")

    @property
    def held(self) -> int:
        return 0

    def submit(self, program: Program, item: Item, *, deadline: float) -> asyncio.Future[Done[Computed]]:
        return self._batcher.submit(program, item, deadline=deadline)

    async def close(self) -> None:
        await self._batcher.close(patience_s=self._stall_s)
        if self._batcher.ended:  # else a call still reads what closing would take from it
            self.runtime.close()

    def _run(self, program: Program, items: list[Item]) -> list[Computed | Exception]:
        """On a lane: a result per item. A broken image is an error of its own."""
        start = time.perf_counter()
        decoded = [self._decoded(item) for item in items]
        decode_s = time.perf_counter() - start if self.decodes else 0.0
        good = [item for item in decoded if isinstance(item, Item)]
        if good:
            self._metrics.batch(program.operation, len(good))
        values = iter(self._programs.run(program, good) if good else ())
        return [Computed(next(values), decode_s) if isinstance(item, Item) else item for item in decoded]

    def _decoded(self, item: Item) -> Item | Exception:
        if self._decoder is None:
            return item
        try:
            return self._decoder(item)
        except Exception as e:  # noqa: BLE001 - its sender's business, not the batch's
            return e
