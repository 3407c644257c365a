"""Errors that end an export with one line instead of a traceback."""

from __future__ import annotations

from collections.abc import Callable

from bundle.cli.ending import BAD_RESULT, NOT_DONE, run
from bundle.errors import MaeveError


class ExportError(MaeveError):
    """What was given cannot be exported; the message says what to do."""


class ParityError(MaeveError):
    """An exported graph does not compute what torch computes."""


def run_command(command: Callable[[], None], *, stopped: str = "stopped") -> None:
    """Run a command by the rule of bundle.cli.ending. stopped: what Ctrl-C says."""
    run(command, statuses={ParityError: BAD_RESULT, MaeveError: NOT_DONE, OSError: NOT_DONE}, stopped=stopped)
