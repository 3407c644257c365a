"""One small actor that knows what is in work: how often each part was begun, and how far those in work have come.

A part is begun anew when its process dies, which Ray repeats for ever; whoever counts sees that it is the part's doing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol


class Watch:
    """Its methods are called through Ray, one at a time."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()
        self._rows: dict[int, int] = {}

    def num_begun(self, part: int) -> int:
        """How often it was begun so far."""
        return self._begun[part]

    def begin(self, part: int) -> None:
        self._begun[part] += 1
        self._rows[part] = 0

    def note(self, part: int, num_rows: int) -> None:
        """How many rows of it are done."""
        self._rows[part] = num_rows

    def end(self, part: int) -> None:
        self._rows.pop(part, None)

    def rows(self) -> dict[int, int]:
        """By the parts in work."""
        return dict(self._rows)


class Teller(Protocol):
    """A worker's side of it."""

    def num_begun(self, part: int) -> int: ...

    def begin(self, part: int) -> None: ...

    def note(self, part: int, num_rows: int) -> None: ...

    def end(self, part: int) -> None: ...


class RayTeller:
    """handle: of the actor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def num_begun(self, part: int) -> int:
        import ray

        number: int = ray.get(self._handle.num_begun.remote(part))
        return number

    def begin(self, part: int) -> None:
        import ray

        ray.get(self._handle.begin.remote(part))  # what follows may be this process's end

    def note(self, part: int, num_rows: int) -> None:
        self._handle.note.remote(part, num_rows)

    def end(self, part: int) -> None:
        self._handle.end.remote(part)
