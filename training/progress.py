"""Progress on stderr: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

_LINE_EVERY_S = 30.0
_WIDE = 130  # columns; on a narrower terminal the numbers are worth more than the bar


class Bar:
    """One long piece of work. `progress`: None where there is no terminal; `quiet`: nothing is shown at all."""

    def __init__(self, name: str, total: int, done: int, progress: Progress | None, *, quiet: bool = False) -> None:
        self._name, self._total, self._done, self._note = name, total, done, ""
        self._progress, self._quiet = progress, quiet
        self._task = None if progress is None else progress.add_task(name, total=total, completed=done, note="")
        self._last_line = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, steps)
        elif not self._quiet and time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(f"{self._name} {self._done}/{self._total} {self._note}".rstrip(), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """What is shown beside the count from now on."""
        self._note = text
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=text)


@contextmanager
def track(name: str, total: int, *, done: int = 0, quiet: bool = False) -> Iterator[Bar]:
    """A bar for `total` steps of which `done` are behind us already."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield Bar(name, total, done, None, quiet=quiet)
        return
    columns = (
        TextColumn("{task.description}"), *([BarColumn()] if console.width >= _WIDE else []), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("and"), TimeRemainingColumn(), TextColumn("left"),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        yield Bar(name, total, done, progress)
