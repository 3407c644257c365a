"""The other end of `worker`: starts the process, asks, and turns whatever ends it into one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from bundle.errors import MaeveError

_EXIT_S = 10.0
_REASON_CHARS = 300


class EngineFailed(MaeveError):
    """An engine refused, failed or crashed; the message says how. Other engines are not touched by it."""


class Worker:
    """A process that runs one engine. `module`: what to run, with `export.bench.worker.serve` in it."""

    def __init__(self, module: str = "export.bench.worker") -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() does
        self._timed_out = False
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, op: str, *, timeout_s: float = 600, **arguments: Any) -> Any:
        """Ask for one of the methods of `worker.Bench`.

        EngineFailed if it fails, if its process ends, or if it takes longer than `timeout_s`, which ends its process.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(timeout_s, self._give_up)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:  # a broken pipe: it is gone
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise EngineFailed(f"no answer within {timeout_s:g} s" if self._timed_out else self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise EngineFailed(_shorten(answer["error"]))
        return answer["value"]

    def close(self) -> None:
        """End the process. Idempotent."""
        with suppress(OSError):  # the pipe of a process that is gone
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give_up(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _last_words(self) -> str:
        """How the process ended, and the last line that it wrote."""
        code = self._process.wait(_EXIT_S)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        return _shorten(f"its process {how}" + (f": {lines[-1]}" if lines else ""))


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _REASON_CHARS else f"{line[:_REASON_CHARS]} ..."
