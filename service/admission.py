"""How much work the service takes on, and how long a caller who is turned away should stay away."""

from __future__ import annotations

import time
from collections.abc import Callable

from bundle.errors import Overloaded
from service.pace import Pace
from service.programs import Operation

_UNMEASURED_S = 1.0  # what to tell a caller before any image of the operation has been finished
# Part of the places that an operation may take. A reconstruction lasts as long as several embeddings; were they to take
# every place, nobody else could wait at all.
_MOST = {"reconstruct": 0.5}


class Load:
    """Of one operation. `pending`: its images that are waiting or being worked on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pending = 0
        self._pace = Pace(clock)

    def enter(self, num_images: int) -> None:
        if self.pending == 0:
            self._pace.begin()
        self.pending += num_images

    def leave(self, *, finished: bool) -> None:
        assert self.pending > 0
        self.pending -= 1
        if finished:
            self._pace.finished(more=self.pending > 0)

    def drain_s(self) -> float:
        gap_s = self._pace.gap_s
        return _UNMEASURED_S if gap_s is None else self.pending * gap_s


class Admission:
    """Counts the images being worked on, waiting ones included. Used from the event loop's thread alone.

    `held`: places taken beyond those, see Device.held.
    """

    def __init__(
        self, max_queue: int, *, held: Callable[[], int] = lambda: 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_queue = max_queue
        self.pending = 0
        self._held = held
        self._clock = clock
        self._loads: dict[Operation, Load] = {}

    def pending_of(self, operation: Operation) -> int:
        return self._load(operation).pending

    def most(self, operation: Operation) -> int:
        """Places that an operation may take."""
        return max(1, int(self.max_queue * _MOST.get(operation, 1)))

    def enter(self, num_images: int, operation: Operation) -> None:
        """Take a place per image, all or none. Overloaded if there are not as many, or not for this operation.

        `retry_after_s`: when there will be, at the pace of the last images, if nobody else comes.
        """
        load = self._load(operation)
        taken = self.pending + self._held()
        if taken + num_images > self.max_queue:
            raise Overloaded(
                f"{taken} images are waiting or being worked on, {self.max_queue} at most",
                retry_after_s=self._room_s(num_images),
            )
        most = self.most(operation)
        if load.pending + num_images > most:
            raise Overloaded(
                f"{load.pending} images are waiting or being worked on for {operation}, {most} at most",
                retry_after_s=load.drain_s(),
            )
        load.enter(num_images)
        self.pending += num_images

    def leave(self, operation: Operation, *, finished: bool) -> None:
        """Give a place back. `finished`: the image was worked on to its end, so it tells about the pace."""
        self._load(operation).leave(finished=finished)
        self.pending -= 1

    def drain_s(self) -> float:
        """Seconds until all that is pending will be done; an assumption for what was never finished yet."""
        drains = [load.drain_s() for load in self._loads.values() if load.pending]
        return max(drains, default=0.0)

    def _room_s(self, num_images: int) -> float:
        """Seconds until an operation that has as many places will have given them all back; operations share the device
        fairly, so the quickest counts.
        """
        drains = [load.drain_s() for load in self._loads.values() if load.pending >= num_images]
        return min(drains, default=self.drain_s() or _UNMEASURED_S)

    def _load(self, operation: Operation) -> Load:
        return self._loads.setdefault(operation, Load(self._clock))
