"""Ends what Ray would leave behind for a minute where this process is killed.

Ray's daemons die with the process that began them, by the kernel's hand. The raylet's own helpers do not: they notice,
and then try for a minute to tell a server that is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Handles of processes, not their numbers: those may be others' by then. The end of stdin is the end of the process
# that holds its other side.
_GUARD = """
import os, signal, sys
handles = []
for pid in map(int, sys.argv[1:]):
    try:
        handles.append(os.pidfd_open(pid))
    except OSError:
        pass
sys.stdin.read()
for handle in handles:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        pass
"""


@contextmanager
def guarded() -> Iterator[None]:
    """Within the block, a SIGKILL of this process is one of its children's children that are there now."""
    pids = [pid for child in _children(os.getpid()) for pid in _children(child)]
    if not pids or not hasattr(os, "pidfd_open"):
        yield
        return
    guard = subprocess.Popen(  # noqa: S603 - our own code and numbers
        [sys.executable, "-I", "-S", "-c", _GUARD, *map(str, pids)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        guard.kill()  # before it sees the end
        guard.communicate()


def _children(pid: int) -> list[int]:
    """None where the kernel does not tell."""
    try:
        texts = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended meanwhile
        return []
    return [int(child) for text in texts for child in text.split()]
