"""Errors that end a bulk command with one line instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from bundle.cli.ending import BAD_RESULT, NOT_DONE, run
from bundle.errors import MaeveError


class BulkError(MaeveError):
    """The source, the output or the machine does not allow the command; the message says what to do."""


class RunFailed(BulkError):
    """A run that had begun went wrong; what it finished is kept, and the message says what to try."""


_STATUSES: dict[type[Exception], int] = {
    RunFailed: BAD_RESULT, MaeveError: NOT_DONE, ValueError: NOT_DONE, OSError: NOT_DONE,
}  # fmt: skip


def run_command(main: Callable[[], None], *, stopped: str = "stopped") -> None:
    """Run a command's main function by the rule of bundle.cli.ending. stopped: what Ctrl-C says."""
    run(main, statuses=_STATUSES, stopped=stopped)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """For the whole of a command: where Ray was loaded, the process ends with the block and its status.

    Ray's native threads have been seen to abort the interpreter on its way out, after all was done and said.
    """
    try:
        yield
    except SystemExit as e:
        if "ray" not in sys.modules or not isinstance(e.code, int | None):
            raise
        _end(e.code or 0)
    if "ray" in sys.modules:
        _end(0)


def _end(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
