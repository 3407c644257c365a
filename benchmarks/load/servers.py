"""Servers as processes of their own: started, held still while others are measured, and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from benchmarks.load.client import answer
from benchmarks.load.requests import Form, Target, first_number, raw, target

_START_S = 60.0
_BUILD_S = 900.0  # TensorRT builds its engines first
_END_S = 10.0


class ServerFailed(Exception):
    """A server that could not be installed, started or asked; says why in one line."""


@dataclass(frozen=True)
class Launch:
    """How to start a server: `command` is given the port by `{port}` in its words and in `files`, which are written
    into the folder that `{folder}` stands for.
    """

    label: str
    command: Sequence[str]
    form: Form
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    start_s: float = _START_S


def ours(
    bundle: Path,
    *flags: str,
    label: str = "Maeve",
    runtime: str = "onnxruntime",
    device: str = "cpu",
    precision: str = "fp32",
    accept: str = "",
) -> Launch:
    """`python -m service`, its caches off unless `flags` say otherwise."""
    command = [sys.executable, "-m", "service", "--bundle", str(bundle.resolve()), "--port", "{port}"]
    command += ["--runtime", runtime, "--device", device, "--precision", precision, "--log-level", "warning"]
    if "--cache-bytes" not in flags:
        command += ["--cache-bytes", "0"]
    start_s = _BUILD_S if "tensorrt" in runtime else _START_S
    return Launch(label, [*command, *flags], raw("/embed", accept or "application/json"), start_s=start_s)


class Server:
    """A running one, whose whole group of processes is stopped and ended with it.

    ServerFailed where it does not answer a photo rightly within the time that its launch gives it.
    """

    def __init__(self, launch: Launch, photos: Sequence[bytes]) -> None:
        self.label = launch.label
        self._folder = Path(tempfile.mkdtemp(prefix="maeve-server-"))
        self.target: Target = target(_free_port(), launch.form, photos)
        for name, content in launch.files.items():
            (self._folder / name).write_text(self._fill_in(content))
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MAEVE_")}
        environment = {k: self._fill_in(v) for k, v in launch.environment.items()}
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._fill_in(word) for word in launch.command], env=kept | environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_it_answers(launch.start_s)
        except BaseException:
            self.end()
            raise

    @property
    def port(self) -> int:
        return self.target.port

    @property
    def pid(self) -> int:
        return self._process.pid

    def expect(self, least: int, most: int) -> None:
        """From now on answers of other lengths are errors."""
        self.target = replace(self.target, answer_bytes=(least, most))

    def settle(self) -> None:
        """Wait until what earlier clients left behind is done: requests that queue behind it are answered."""
        for _ in range(2):
            answer(self.target, first_number())

    def hold(self) -> None:
        """Stand still: an idle server that polls must not cost the others anything."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """SIGTERM, then SIGKILL for what is left of its group."""
        self.go_on()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _fill_in(self, text: str) -> str:
        return text.replace("{port}", str(self.target.port)).replace("{folder}", str(self._folder))

    def _wait_until_it_answers(self, start_s: float) -> None:
        until = time.monotonic() + start_s
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise ServerFailed(f"{self.label} did not start: {self._last_words()}")
            if _is_open(self.target.port) and answer(self.target, first_number()) is not None:
                return
            time.sleep(0.1)
        raise ServerFailed(f"{self.label} answered no photo within {start_s:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Let a server that stands still run for as long as this lasts."""
    server.go_on()
    try:
        server.settle()
        yield
        server.settle()
    finally:
        server.hold()


def _free_port() -> int:
    """One whose neighbour is free too: MLServer opens a second one."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
    raise ServerFailed("no two neighbouring ports are free")


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
