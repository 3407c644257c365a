"""python -m export.bench BUNDLE: measure every runtime and precision that this machine has, and write bench.json."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bundle.errors import MaeveError
from export.bench.command import BenchConfig, run_bench
from export.bench.page import show
from export.bench.rounds import Progress

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell counts


def main() -> None:
    config = tyro.cli(BenchConfig, prog="python -m export.bench")
    try:
        with _bar() as progress:
            document = run_bench(config, progress)
    except MaeveError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        print(f"stopped; {config.out} was not written", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    show(document, config.out)
    if document.failed:
        sys.exit(EXIT_FAILED)


@contextmanager
def _bar() -> Iterator[Progress]:
    """On stderr while it lasts; nothing where there is no terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


if __name__ == "__main__":
    main()
