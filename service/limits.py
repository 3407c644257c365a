"""How many requests each API key may send."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from service.errors import RateLimited
from service.keys import Key

_BURST_S = 2.0  # an idle key may send as many at once as it has per this time


class RateLimits:
    """A token bucket per key. Used from the event loop's thread alone.

    `rate`: requests per second of keys without one of their own, None for no limit. `share`: the part of every rate
    that this process grants, 1 / its number: processes do not ask each other.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        rate: float | None,
        *,
        share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        rates = {key.name: key.rate or rate for key in keys}
        self._buckets = {name: _Bucket(rate * share, clock) for name, rate in rates.items() if rate is not None}

    def take(self, key: Key) -> None:
        """Count a request of this key. RateLimited if it has sent too many."""
        bucket = self._buckets.get(key.name)
        if bucket is None:
            return
        wait_s = bucket.take()
        if wait_s > 0:
            raise RateLimited(
                f"the key {key.name} may send {bucket.rate:g} requests a second here", retry_after_s=wait_s
            )


class _Bucket:
    """Fills at `rate` tokens a second up to a burst; a request takes one."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate = rate
        self._burst = max(1.0, rate * _BURST_S)
        self._clock = clock
        self._tokens = self._burst
        self._filled_at = clock()

    def take(self) -> float:
        """Seconds until there is a token; 0 if there was one, which is taken."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0
