"""Errors that end a bulk command with one line instead of a traceback."""

from __future__ import annotations

from collections.abc import Callable

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
