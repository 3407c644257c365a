"""How a command ends: what was raised becomes one line on stderr and an exit status, by one rule for all commands.

0    done
1    done or begun, with a bad result: a graph that differs, a fault that was found, a run that failed; or a bug
2    not done: an argument, a file or the machine does not allow it, and the line says what to change; or what was
     printed could not be written
130  stopped by Ctrl-C, 128 + SIGINT
141  nobody read the output to its end, 128 + SIGPIPE, as programs end that never heard of it
143  stopped by SIGTERM with the state saved, 128 + SIGTERM
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, TextIO

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


class _Unwritten(MaeveError):
    """Standard output takes no more, for another reason than that nobody reads it."""


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
    _replace_closed_streams()
    with _watched_interrupts() as interrupted:
        try:
            _to_the_last_byte(main)
        except Stopped as e:
            _exit(str(e), 128 + e.number, speaks=speaks)
        except UsageError as e:
            _exit(f"error: {e}", NOT_DONE, speaks=speaks)
        except _Unwritten as e:
            _exit(f"error: {e}", NOT_DONE)
        except (Exception, KeyboardInterrupt) as e:
            if isinstance(e, BrokenPipeError) and _nobody_reads():
                _discard(sys.stdout, sys.stderr)
                sys.exit(UNREAD)
            # torch turns a Ctrl-C in the middle of its own work into errors of other kinds.
            if interrupted.is_set() or isinstance(e, KeyboardInterrupt):
                _exit(stopped, INTERRUPTED, speaks=speaks)
            status = next((statuses[kind] for kind in type(e).__mro__ if kind in statuses), None)
            if status is None:
                _settle()
                raise
            _exit(f"error: {one_line(e)}", status)


def one_line(error: BaseException) -> str:
    """Libraries answer with whole paragraphs, so the line is cut."""
    return textwrap.shorten(str(error), _LINE_LENGTH, placeholder=" ...")


def _to_the_last_byte(main: Callable[[], None]) -> None:
    """Call it, and write what it printed: here, where it can still be told that nobody takes it. An error of `main`
    goes before those of the output.
    """
    try:
        main()
    except SystemExit:
        _flush()
        raise
    _flush()


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise _Unwritten(f"the output could not be written: {e.strerror}") from e


def _settle() -> None:
    """Write what is still buffered, or forget it: the interpreter would end with a status of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard(sys.stdout)


def _exit(message: str, status: int, *, speaks: bool = True) -> NoReturn:
    _settle()
    if speaks:
        print(message, file=sys.stderr)
    sys.exit(status)


@contextmanager
def _watched_interrupts() -> Iterator[threading.Event]:
    """Set once Ctrl-C was pressed, which raises KeyboardInterrupt as ever; where it is ignored, as in what a script
    started with `&`, it goes on being so.
    """
    seen = threading.Event()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield seen
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        seen.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _replace_closed_streams() -> None:
    """What goes to a stream that the caller closed (`>&-`), None to Python, is lost, and meets no error; nor does the
    next file that is opened take its number.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends


def _nobody_reads() -> bool:
    """Whether what is printed goes to a pipe that has no reader: another pipe may be the broken one."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), 0)
        except io.UnsupportedOperation:  # kept in memory
            continue
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _discard(*streams: TextIO) -> None:
    """So that what is still buffered there meets no error when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
