"""How fast images get done: by one device, or of one operation."""

from __future__ import annotations

import time
from collections.abc import Callable

_SMOOTHING = 0.05  # weight of the newest gap: about the last twenty images count


class Pace:
    """The mean time between two images finished, while there was more to do."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._gaps = 0
        self._gap_s = 0.0
        self._last: float | None = None

    @property
    def gap_s(self) -> float | None:
        """Seconds; None until it was measured."""
        return self._gap_s if self._gaps else None

    def begin(self) -> None:
        """There is something to do after a time without."""
        self._last = self._clock()

    def finished(self, *, more: bool) -> None:
        """An image is done. `more`: whether others are still to be."""
        now = self._clock()
        if self._last is not None:
            self._gaps += 1
            self._gap_s += max(_SMOOTHING, 1 / self._gaps) * (now - self._last - self._gap_s)
        self._last = now if more else None
