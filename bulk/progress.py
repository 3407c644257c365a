"""Progress on stderr: one bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

_LINE_EVERY_S = 10.0
_WIDE = 110  # columns; on a narrower terminal the numbers are worth more than the bar


class Bar:
    """One long piece of work, in images and what there is to say beside them. progress: None without a terminal.

    total: None where nobody knows how many there will be.
    """

    def __init__(self, name: str, total: int | None, done: int, unit: str, progress: Progress | None) -> None:
        self._name, self._total, self._done, self._unit, self._note = name, total, done, unit, ""
        self._progress = progress
        if progress is not None:
            self._task = progress.add_task(name, total=total, completed=done, note="", count=self._count())
        self._told_at = time.monotonic()

    def show(self, done: int, note: str = "") -> None:
        """done: in all; note: what is shown beside it. From any thread."""
        self._done, self._note = done, note
        if self._progress is not None:
            self._progress.update(self._task, completed=done, note=note, count=self._count())
        elif time.monotonic() - self._told_at >= _LINE_EVERY_S:
            self._told_at = time.monotonic()
            self.say(", ".join(filter(None, (f"{self._name} {self._count()}", note))))

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._progress is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._progress.console.print(text, markup=False, highlight=False)

    def _count(self) -> str:
        of = "" if self._total is None else f"/{self._total:,}"
        return f"{self._done:,}{of} {self._unit}"


@contextmanager
def track(name: str, total: int | None, *, done: int = 0, unit: str = "images") -> Iterator[Bar]:
    """A bar for `total` steps of which `done` are behind us already."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(name, total, done, unit, None)
        return
    columns = (
        TextColumn("{task.description}"), *([BarColumn()] if console.width >= _WIDE else []),
        TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        TimeElapsedColumn(), *([] if total is None else [TextColumn("and"), TimeRemainingColumn(), TextColumn("left")]),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        yield Bar(name, total, done, unit, progress)
