"""What every process that the supervisor starts does first, and how it ends with it.

A child is started as `python -m MODULE NAME FD`; FD is its end of the control line. Its first message comes from the
supervisor and holds the settings.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from service.ipc.framing import Control, Message, ProtocolError, receive
from service.logs import log_to_stderr
from service.settings import Settings

BEAT_S = 0.5  # between two signs of life

_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """`message`: the supervisor's first."""

    name: str
    settings: Settings
    message: Message
    line: socket.socket


def begin(argv: Sequence[str]) -> Start:
    """Read the first message and log under the child's name. ProtocolError if the supervisor is gone by then."""
    name, fd = argv
    multiprocessing.current_process().name = name  # which is what log records call processName
    line = socket.socket(fileno=int(fd))
    message = receive(line)
    settings = Settings(**message["settings"])
    log_to_stderr(settings, name)
    return Start(name, settings, message, line)


def end_with_parent() -> None:
    """Have the kernel kill this process when the supervisor dies, where it can: also one that hangs in a driver."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def dump_settings(settings: Settings) -> Message:
    """For the start message; the line that carries it is private, so the key may go with it."""
    return {name: _plain(value) for name, value in settings}


async def beat(control: Control, stalled_s: Callable[[], float]) -> None:
    """Signs of life, for ever. `stalled_s`: how long the longest call of the model, or of a decoder, has run."""
    while True:
        control.send({"type": "beat", "stalled_s": stalled_s()})
        await asyncio.sleep(BEAT_S)


async def next_message(control: Control) -> Message | None:
    """From the supervisor; None when it is gone."""
    try:
        return await control.receive()
    except ProtocolError as e:
        log.error("the supervisor cannot be understood: %s", e)
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value
