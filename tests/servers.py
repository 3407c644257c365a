"""Services as users start them: in processes of their own, on loopback ports that are free."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.service.helpers import eventually, free_port

ROOT = Path(__file__).parents[1]
_START_TIMEOUT_S = 60.0
_TOLD = 2000  # characters of a log


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}"


def clean_environment() -> dict[str, str]:
    """This process's, without settings of a service and without proxies on the way to loopback addresses."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAEVE_", "OTEL_"))}
    return kept | {"NO_PROXY": "*", "no_proxy": "*"}


@contextmanager
def serving_command(
    command: Sequence[str],
    port: int,
    *,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Running]:
    """A command that serves on `port`, once it takes requests; at the end it is told to stop. AssertionError if it
    never takes any. Without a `log` its lines go where this process's go.
    """
    environment = clean_environment() if environment is None else environment
    with nullcontext() if log is None else log.open("wb") as lines:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=lines, stderr=lines)
    try:
        eventually(lambda: process.poll() is not None or _is_ready(port), _START_TIMEOUT_S)
        told = "" if log is None else f": {log.read_text()[-_TOLD:]}"
        assert process.poll() is None, f"{' '.join(command)} ended{told}"
        yield Running(process, port)
    finally:
        process.terminate()
        process.wait(40)


@contextmanager
def serving_bundle(
    *flags: str,
    bundle: Path = ROOT / "models" / "default",
    port: int | None = None,
    log: Path | None = None,
    **settings: str,
) -> Iterator[Running]:
    """`python -m service` with these flags and MAEVE_ settings."""
    port = port or free_port()
    command = [sys.executable, "-m", "service", "--bundle", str(bundle), "--port", str(port), *flags]
    with serving_command(command, port, environment=clean_environment() | settings, log=log) as running:
        yield running


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False
