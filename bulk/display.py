"""What is seen of a run: how many images are done, those of parts in work included, how fast, and how many errors."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from bulk.parts import part_name
from bulk.progress import Bar, track
from bulk.state import State
from bulk.watch import Seen
from bulk.worker import Report
from bundle.cli.words import counted

_RATE_OVER_S = 30.0


class Display:
    """The bar counts images, or parts where nobody knows how many images there are. Its methods may be called from
    several threads.
    """

    def __init__(self, bar: Bar, state: State, *, in_images: bool) -> None:
        self._bar, self._state, self._in_images = bar, state, in_images
        self._lock = threading.Lock()
        self._in_work: Mapping[int, int] = {}
        self._deaths: Mapping[int, int] = {}
        self._marks = deque([(time.monotonic(), state.num_images)])

    def take(self, report: Report) -> None:
        """A part is finished. Raises as State.take."""
        with self._lock:
            self._state.take(report)
            self._show()

    def tell(self, seen: Seen) -> None:
        """What is in work; parts among it that are finished are passed over. A line for each death."""
        with self._lock:
            self._in_work = seen.rows
            for part, num_deaths in seen.deaths.items():
                if num_deaths > self._deaths.get(part, 0):
                    self._bar.say(f"the process died over {part_name(part)}, which is begun anew")
            self._deaths = seen.deaths
            self._show()

    def _show(self) -> None:
        state = self._state
        in_work = sum(num_rows for part, num_rows in self._in_work.items() if part not in state.parts)
        num_images = state.num_images + in_work
        notes = [f"{self._rate(num_images):,.0f} img/s"]
        if not self._in_images:
            notes.insert(0, counted(num_images, "image"))
        if state.num_errors:
            notes.append(counted(state.num_errors, "error"))
        self._bar.show(num_images if self._in_images else len(state.parts), ", ".join(notes))

    def _rate(self, num_images: int) -> float:
        """Images per second of late."""
        now = time.monotonic()
        self._marks.append((now, num_images))
        while len(self._marks) > 2 and now - self._marks[1][0] > _RATE_OVER_S:
            self._marks.popleft()
        (began, before), (ended, after) = self._marks[0], self._marks[-1]
        return max(0.0, (after - before) / max(1e-9, ended - began))


@contextmanager
def displayed(state: State, todo: Sequence[int]) -> Iterator[Display]:
    """todo: the parts that will be made."""
    counts = state.plans.counts()
    left = [counts[number] for number in todo]
    in_images = None not in left
    if in_images:
        done, total = state.num_images, state.num_images + sum(count or 0 for count in left)
    else:
        done, total = len(state.parts), len(state.parts) + len(todo)
    with track("embedding", total, done=done, unit="images" if in_images else "parts") as bar:
        yield Display(bar, state, in_images=in_images)
