"""Real services for the examples: the one that a reader started with `make serve`, and one that asks for a key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.docs.markdown import ROOT
from tests.service.helpers import eventually, free_port

START_TIMEOUT_S = 60.0
_TOLD = 2000  # characters of a log


@dataclass(frozen=True)
class Running:
    port: int

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"


def clean_environment() -> dict[str, str]:
    """This process's, without settings of a service and without proxies on the way to loopback addresses."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAEVE_", "OTEL_"))}
    return kept | {"NO_PROXY": "*", "no_proxy": "*"}


@contextmanager
def serving(
    command: Sequence[str], port: int, folder: Path, environment: Mapping[str, str], log: Path
) -> Iterator[Running]:
    """A command that serves on `port`, once it takes requests. AssertionError with its log if it never does."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stderr, stderr=stderr)
        try:
            eventually(lambda: process.poll() is not None or _is_ready(port), START_TIMEOUT_S)
            assert process.poll() is None, f"{' '.join(command)} ended: {log.read_text()[-_TOLD:]}"
            yield Running(port)
        finally:
            process.terminate()
            process.wait(40)


@contextmanager
def serving_default(log: Path, *flags: str, **settings: str) -> Iterator[Running]:
    """What `make serve` starts after a plain install: the default bundle under ONNX Runtime, on a free port."""
    port = free_port()
    base = [sys.executable, "-m", "service", "--runtime", "onnxruntime", "--device", "cpu", "--port", str(port)]
    with serving([*base, *flags], port, ROOT, clean_environment() | settings, log) as running:
        yield running


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False
