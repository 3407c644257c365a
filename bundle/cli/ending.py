"""How a command ends: what was raised becomes one line on stderr and an exit status, by one rule for all commands.

0    done
1    done or begun, with a bad result: a graph that differs, a fault that was found, a run that failed; or a bug
2    not done: an argument, a file or the machine does not allow it, and the line says what to change
130  stopped by Ctrl-C, 128 + SIGINT
141  nobody read the output to its end, 128 + SIGPIPE, as programs end that never heard of it
143  stopped by SIGTERM with the state saved, 128 + SIGTERM
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from bundle.cli.flags import UsageError
from bundle.errors import MaeveError

BAD_RESULT: Final = 1
NOT_DONE: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT
UNREAD: Final = 128 + signal.SIGPIPE
TERMINATED: Final = 128 + signal.SIGTERM
_LINE_LENGTH = 600


class Stopped(MaeveError):
    """A signal arrived, and what there is to keep is kept; the message says how to go on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def run(
    main: Callable[[], None],
    *,
    statuses: Mapping[type[Exception], int],
    stopped: str = "stopped",
    speaks: bool = True,
) -> None:
    """Call `main`, and return where it returns; else exit by the rule above.

    statuses: of the errors that are foreseen, by their class or the nearest one above it; any other one is a bug and
    keeps its traceback. stopped: what Ctrl-C says. speaks: False in all processes of one command but one, which are
    told the same.
    """
    with _watched_interrupts() as interrupted:
        try:
            try:
                main()
            finally:
                sys.stdout.flush()  # here, where it can still be told that nobody reads it
        except BrokenPipeError:
            _discard_output()
            sys.exit(UNREAD)
        except Stopped as e:
            _exit(str(e), 128 + e.number, speaks=speaks)
        except UsageError as e:
            _exit(f"error: {e}", NOT_DONE, speaks=speaks)
        except (Exception, KeyboardInterrupt) as e:
            # torch turns a Ctrl-C in the middle of its own work into errors of other kinds.
            if interrupted.is_set() or isinstance(e, KeyboardInterrupt):
                _exit(stopped, INTERRUPTED, speaks=speaks)
            status = next((statuses[kind] for kind in type(e).__mro__ if kind in statuses), None)
            if status is None:
                raise
            _exit(f"error: {one_line(e)}", status)


def one_line(error: BaseException) -> str:
    """Libraries answer with whole paragraphs, so the line is cut."""
    return textwrap.shorten(str(error), _LINE_LENGTH, placeholder=" ...")


def _exit(message: str, status: int, *, speaks: bool = True) -> NoReturn:
    if speaks:
        print(message, file=sys.stderr)
    sys.exit(status)


@contextmanager
def _watched_interrupts() -> Iterator[threading.Event]:
    """Set once Ctrl-C was pressed, which raises KeyboardInterrupt as ever."""
    seen = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        seen.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _discard_output() -> None:
    """So that what is still buffered meets no broken pipe when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
