"""Whose turn it is: each kind of work gets an equal part of the time, as long as it has work.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), with several turns at once as in SFQ(D) (Jin, Chase and
Kaur, SIGMETRICS 2004). Every kind has a tag, the seconds it was given. The lowest tag goes next, and the tags of those
who go are the virtual time. Who had no work starts again at the virtual time: idleness is no credit.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)

_SMOOTHING = 0.2  # weight of the newest turn in the mean: about the last five count
_OUTLIER = 4.0  # a turn counts as at most this many usual ones: a hiccup must not shut its kind out for as long again


class Turns(Generic[C]):
    """Not safe across threads: the caller holds a lock, or is the event loop."""

    def __init__(self) -> None:
        self._now = 0.0
        self._tags: dict[C, float] = {}
        self._means: dict[C, float] = {}  # seconds per turn

    def enter(self, kind: C) -> None:
        """`kind` has work, after it had none."""
        self._tags[kind] = max(self._tags.get(kind, 0.0), self._now)

    def next(self, kinds: Iterable[C]) -> C:
        """Of kinds that entered, the one that was given least; of equals, the first."""
        return min(kinds, key=self._tags.__getitem__)

    def begin(self, kind: C) -> float:
        """A turn starts, and is charged what turns of its kind usually take. Returns that charge, for `end`."""
        tag = self._tags[kind]
        self._now = max(self._now, tag)
        charge = self._means.get(kind, 0.0)
        self._tags[kind] = tag + charge
        return charge

    def end(self, kind: C, charge: float, seconds: float) -> None:
        """The turn that was charged `charge` took `seconds`."""
        mean = self._means.get(kind)
        if mean is None:
            self._means[kind] = seconds
        else:
            seconds = min(seconds, _OUTLIER * mean)
            self._means[kind] = mean + _SMOOTHING * (seconds - mean)
        self._tags[kind] += seconds - charge
