"""Errors that end a training command with one line instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from bundle.cli.ending import BAD_RESULT, NOT_DONE, Stopped, run
from bundle.errors import MaeveError


class TrainingError(MaeveError):
    """The data, the configuration or the run folder does not allow the command; the message says what to do."""


class RunFailed(TrainingError):
    """A run that had begun went wrong, such as by a loss that is not finite; the message says what to try."""


class Terminated(Stopped):
    """SIGTERM or SIGINT, which `number` is, arrived, and the state is saved."""


_STATUSES: dict[type[Exception], int] = {
    RunFailed: BAD_RESULT, MaeveError: NOT_DONE, ValueError: NOT_DONE, OSError: NOT_DONE,
}  # fmt: skip


def run_command(main: Callable[[], None], *, stopped: str = "stopped") -> None:
    """Run a command's main function by the rule of bundle.cli.ending. stopped: what Ctrl-C says where nothing is saved.

    Of the processes that torchrun started one says for all what it says of all.
    """
    run(lambda: _call(main), statuses=_STATUSES, stopped=stopped, speaks=is_main_process())


def is_main_process() -> bool:
    """Whether this process speaks for all: the first that torchrun started, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def _call(main: Callable[[], None]) -> None:
    try:
        main()
    except Exception as e:
        torch = sys.modules.get("torch")  # not imported by what needs no torch
        if torch is None or not isinstance(e, torch.OutOfMemoryError):
            raise
        raise TrainingError(
            f"the GPU's memory does not hold this: raise --accumulate, add --recompute or lower --batch-size ({e})"
        ) from e
