"""How much work the service takes on, and how long a caller who is turned away should stay away."""

from __future__ import annotations

import time
from collections.abc import Callable

from bundle.errors import Overloaded

_SMOOTHING = 0.05  # weight of the newest gap between two finished images: about the last twenty count
_UNMEASURED_S = 1.0  # what to tell a caller before any image has been finished


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
        self._gaps = 0  # measured so far
        self._gap_s = 0.0  # mean time between two finished images while there is more to do
        self._last: float | None = None  # when the last image was finished, None if the queue ran empty since

    def enter(self, num_images: int) -> None:
        """Take a place per image, all or none. Overloaded if there are not as many.

        `retry_after_s`: when all that is here now will be done, at the pace of the last images.
        """
        taken = self.pending + self._held()
        if taken + num_images > self.max_queue:
            raise Overloaded(
                f"{taken} images are waiting or being worked on, {self.max_queue} at most",
                retry_after_s=self.drain_s(),
            )
        if self.pending == 0:
            self._last = self._clock()
        self.pending += num_images

    def leave(self, *, finished: bool) -> None:
        """Give a place back. `finished`: the image was worked on to its end, so it tells about the pace."""
        assert self.pending > 0
        self.pending -= 1
        if not finished:
            return
        now = self._clock()
        if self._last is not None:
            self._gaps += 1
            weight = max(_SMOOTHING, 1 / self._gaps)
            self._gap_s += weight * (now - self._last - self._gap_s)
        self._last = now if self.pending else None

    def drain_s(self) -> float:
        """Seconds until what is pending will be done; an assumption until a first image was finished."""
        return self.pending * self._gap_s if self._gaps else _UNMEASURED_S
