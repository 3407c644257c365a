"""Programs that run a page's blocks one after the other, and keep what they define.

A reader types a page into one terminal and one interpreter, from top to bottom; so do these.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_HERE = Path(__file__).parent
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Result:
    """status: 0 where the block did what it should; -1 where it ended its session, -2 where it never ended."""

    status: int
    out: str
    err: str


class Session:
    """A process that runs files. Their warnings are errors, where the language has any."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        # The descriptors get their numbers in a shell, where these may be taken: 3 and 4 are some of this process's.
        redirect = ["bash", "-c", f'exec "$@" 3<&{requests} 4>&{answers}', "bash", *command]
        self._process = subprocess.Popen(
            redirect, cwd=folder, env=environment, pass_fds=(requests, answers), stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(requests)
        os.close(answers)

    @classmethod
    def shell(cls, folder: Path, environment: Mapping[str, str]) -> Self:
        return cls(["bash", "--norc", str(_HERE / "session.sh")], folder, environment)

    @classmethod
    def python(cls, folder: Path, environment: Mapping[str, str]) -> Self:
        return cls([sys.executable, "-P", "-W", "error", str(_HERE / "session.py")], folder, environment)

    def run(self, file: Path, *, fails: bool = False, timeout_s: float = TIMEOUT_S) -> Result:
        """Run a file, which `fails` lets end with any status and the session go on. What it printed lies beside it."""
        with contextlib.suppress(BrokenPipeError):  # an earlier block has ended it, and this one gets no answer
            os.write(self._requests, f"{file} {'fails' if fails else 'works'}\n".encode())
        if not select.select([self._answers], [], [], timeout_s)[0]:
            status = -2
        else:
            status = int(os.read(self._answers, 16) or b"-1")
        return Result(status, _read(f"{file}.out"), _read(f"{file}.err"))

    def close(self) -> None:
        os.close(self._requests)
        os.close(self._answers)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what a block left running too
        self._process.wait()


def run_once(command: list[str], folder: Path, environment: Mapping[str, str]) -> Result:
    """A program that keeps nothing."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        return Result(-2, str(e.stdout), str(e.stderr))
    return Result(done.returncode, done.stdout, done.stderr)


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace") if Path(path).exists() else ""
