"""python -m export.bench BUNDLE: measure every runtime and precision that this machine has, and write bench.json."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bundle.cli.command import Command
from bundle.cli.ending import BAD_RESULT
from export.bench.command import BenchConfig, run_bench
from export.bench.page import show
from export.bench.rounds import Progress
from export.errors import run_command

_LINE_EVERY_S = 10.0

COMMAND = Command(
    config=BenchConfig,
    module="export.bench",
    examples=(
        "python -m export.bench models/default",
        "python -m export.bench models/default --runtimes onnxruntime,openvino --device cpu --rounds 3",
        "python -m export.bench bundles/photos --images photos --keep 0.5 --out keep-half.json",
    ),
    page="docs/export.md",
    statuses={1: "done, but an engine failed; the others are in the document",
              130: "stopped by Ctrl-C; no figures were written"},
)  # fmt: skip


def main() -> None:
    run_command(_bench, stopped="stopped; no figures were written")


def _bench() -> None:
    config = COMMAND.parse()
    with _progress() as progress:
        document = run_bench(config, progress)
    show(document, config.out)
    if document.failed:
        sys.exit(BAD_RESULT)


@contextmanager
def _progress() -> Iterator[Progress]:
    """On stderr: a bar while it lasts, or lines where there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


class Lines:
    """A line where another kind of work begins, and now and then in between."""

    def __init__(self, every_s: float = _LINE_EVERY_S) -> None:
        self._every_s, self._stage, self._told_at = every_s, "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        stage, now = what.partition(":")[0], time.monotonic()
        if stage != self._stage or now - self._told_at >= self._every_s:
            self._stage, self._told_at = stage, now
            print(f"step {done + 1} of {total}: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
