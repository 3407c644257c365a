"""How much work the service takes on, and how long a caller who is turned away should stay away."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bundle.errors import Overloaded
from service.programs import Operation

_SMOOTHING = 0.05  # weight of the newest gap between two finished images: about the last twenty count
_UNMEASURED_S = 1.0  # what to tell a caller before any image of the operation has been finished
# Part of the places that an operation may take. A reconstruction lasts as long as several embeddings; were they to take
# every place, nobody else could wait at all.
_MOST = {"reconstruct": 0.5}


@dataclass
class _Pace:
    """Of one operation. `last`: when its last image was finished, None if it has had none to do since."""

    pending: int = 0
    gaps: int = 0  # measured so far
    gap_s: float = 0.0  # mean time between two finished images while there is more to do
    last: float | None = None

    def finished(self, now: float) -> None:
        if self.last is not None:
            self.gaps += 1
            weight = max(_SMOOTHING, 1 / self.gaps)
            self.gap_s += weight * (now - self.last - self.gap_s)
        self.last = now if self.pending else None

    def drain_s(self) -> float:
        return self.pending * self.gap_s if self.gaps else _UNMEASURED_S


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
        self._paces: dict[Operation, _Pace] = {}

    def pending_of(self, operation: Operation) -> int:
        return self._pace(operation).pending

    def enter(self, num_images: int, operation: Operation) -> None:
        """Take a place per image, all or none. Overloaded if there are not as many, or not for this operation.

        `retry_after_s`: when there will be, at the pace of the last images, if nobody else comes.
        """
        pace = self._pace(operation)
        taken = self.pending + self._held()
        if taken + num_images > self.max_queue:
            raise Overloaded(
                f"{taken} images are waiting or being worked on, {self.max_queue} at most",
                retry_after_s=self._room_s(num_images),
            )
        most = max(1, int(self.max_queue * _MOST.get(operation, 1)))
        if pace.pending + num_images > most:
            raise Overloaded(
                f"{pace.pending} images are waiting or being worked on for {operation}, {most} at most",
                retry_after_s=pace.drain_s(),
            )
        if pace.pending == 0:
            pace.last = self._clock()
        pace.pending += num_images
        self.pending += num_images

    def leave(self, operation: Operation, *, finished: bool) -> None:
        """Give a place back. `finished`: the image was worked on to its end, so it tells about the pace."""
        pace = self._pace(operation)
        assert pace.pending > 0
        pace.pending -= 1
        self.pending -= 1
        if finished:
            pace.finished(self._clock())

    def drain_s(self) -> float:
        """Seconds until all that is pending will be done; an assumption for what was never finished yet."""
        drains = [pace.drain_s() for pace in self._paces.values() if pace.pending]
        return max(drains, default=0.0)

    def _room_s(self, num_images: int) -> float:
        """Seconds until an operation that has as many places will have given them all back; operations share the device
        fairly, so the quickest counts.
        """
        drains = [pace.drain_s() for pace in self._paces.values() if pace.pending >= num_images]
        return min(drains, default=self.drain_s() or _UNMEASURED_S)

    def _pace(self, operation: Operation) -> _Pace:
        return self._paces.setdefault(operation, _Pace())
