"""One small actor that knows what is in work, how far that has come, and over which parts processes died.

What a process that dies had in hand, Ray repeats for ever; whoever counts sees that it is a part's doing. A part that
is begun and never ended died; one that is ended is finished, though the report of it may have died with the process.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple, Protocol


class Past(NamedTuple):
    """Of one part: over how many beginnings its process died, and whether it was brought to its end."""

    num_deaths: int
    is_ended: bool


class Seen(NamedTuple):
    """By part: rows done of those in work, and the deaths over all that were begun anew."""

    rows: dict[int, int]
    deaths: dict[int, int]


class Watch:
    """Its methods are called through Ray, one at a time."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()  # beginnings without an end
        self._rows: dict[int, int] = {}
        self._deaths: dict[int, int] = {}
        self._ended: set[int] = set()

    def past(self, part: int) -> Past:
        """Asked before it is begun."""
        return Past(self._open[part], part in self._ended)

    def begin(self, part: int) -> None:
        if self._open[part]:
            self._deaths[part] = self._open[part]
        self._open[part] += 1
        self._rows[part] = 0

    def note(self, part: int, num_rows: int) -> None:
        """How many rows of it are done."""
        self._rows[part] = num_rows

    def end(self, part: int) -> None:
        """It is written, or cannot be for a reason that is told."""
        self._open.pop(part, None)
        self._rows.pop(part, None)
        self._ended.add(part)

    def seen(self) -> Seen:
        return Seen(dict(self._rows), dict(self._deaths))


class Teller(Protocol):
    """A worker's side of it."""

    def past(self, part: int) -> Past: ...

    def begin(self, part: int) -> None: ...

    def note(self, part: int, num_rows: int) -> None: ...

    def end(self, part: int) -> None: ...


class RayTeller:
    """handle: of the actor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def past(self, part: int) -> Past:
        import ray

        past: Past = ray.get(self._handle.past.remote(part))
        return past

    def begin(self, part: int) -> None:
        import ray

        ray.get(self._handle.begin.remote(part))  # what follows may be this process's end

    def note(self, part: int, num_rows: int) -> None:
        self._handle.note.remote(part, num_rows)

    def end(self, part: int) -> None:
        self._handle.end.remote(part)
