"""Errors that end a training command with one line instead of a traceback."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from typing import NoReturn

import torch

from bundle.errors import MaeveError

EXIT_USAGE = 2
EXIT_TERMINATED = 143  # 128 + SIGTERM, what schedulers expect of a job that stopped when told to
_LINE_LENGTH = 600


class TrainingError(MaeveError):
    """The data, the configuration or the run folder does not allow the command; the message says what to do."""


class Terminated(MaeveError):
    """SIGTERM or SIGINT arrived, and the state is saved."""


def run_command(command: Callable[[], None]) -> None:
    """Run a command's main function; a foreseen error becomes one line on stderr and exit status 2.

    Libraries answer with whole paragraphs, so the line is cut.
    """
    try:
        command()
    except Terminated as e:
        if os.environ.get("RANK", "0") == "0":  # of several processes one says it for all
            print(e, file=sys.stderr)
        sys.exit(EXIT_TERMINATED)
    except KeyboardInterrupt:  # where nobody waits for it, as while images are packed
        print("stopped; the same command goes on with what is there (--resume where a run had begun)", file=sys.stderr)
        sys.exit(EXIT_TERMINATED)
    except torch.OutOfMemoryError as e:
        _fail(f"the GPU's memory does not hold this: raise --accumulate, add --recompute or lower --batch-size ({e})")
    except (MaeveError, ValueError, OSError) as e:
        _fail(str(e))


def _fail(message: str) -> NoReturn:
    print(f"error: {textwrap.shorten(message, _LINE_LENGTH, placeholder=' ...')}", file=sys.stderr)
    sys.exit(EXIT_USAGE)
