"""The service as its users run it, in processes, with a hand on each of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bundle.store import Bundle
from tests.service.helpers import eventually, free_port

ROOT = Path(__file__).parents[2]
INJECT = Path(__file__).parent / "inject"


@dataclass(frozen=True)
class System:
    """`faults`: the folder whose files order faults, see inject/sitecustomize.py."""

    process: subprocess.Popen[bytes]
    port: int
    faults: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def order(self, fault: str) -> None:
        (self.faults / fault).touch()

    def lift(self, fault: str) -> None:
        (self.faults / fault).unlink()

    def pids(self, role: str) -> list[int]:
        """Processes of the service whose command line contains `role`, oldest first."""
        return [pid for pid in _children(self.process.pid) if role in _command(pid)]

    def kill(self, role: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Signal one process of that role, the youngest; its pid."""
        pid = self.pids(role)[-1]
        os.kill(pid, sig)
        return pid

    def status(self, path: str) -> int:
        """Of a GET; 0 without an answer."""
        try:
            return httpx.get(self.url + path, timeout=5, trust_env=False).status_code
        except httpx.TransportError:
            return 0

    def resident_mib(self) -> float:
        """Of all processes together; pages that several share count for each."""
        return sum(_resident_bytes(pid) for pid in (self.process.pid, *_children(self.process.pid))) / 2**20


@contextmanager
def running(bundle: Bundle, faults: Path, *flags: str, prefix: tuple[str, ...] = ()) -> Iterator[System]:
    """`prefix`: a command that runs the service, unshare for one. At the end it drains, and must end with status 0."""
    faults.mkdir(exist_ok=True)
    port = free_port()
    command = [*prefix, sys.executable, "-m", "service", "--bundle", str(bundle.path), "--port", str(port), *flags]
    command += ["--runtime", "onnxruntime", "--device", "cpu", "--precision", "fp32"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAEVE_")}
    environment |= {"FAULTS_DIR": str(faults), "PYTHONPATH": os.pathsep.join([str(INJECT), str(ROOT)])}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    system = System(process, port, faults)
    try:
        eventually(lambda: process.poll() is not None or system.status("/readyz") == 200, 60)
        assert process.poll() is None, "the service did not start"
        yield system
        process.terminate()
        assert process.wait(40) == 0
    finally:
        family = [process.pid, *_children(process.pid)]
        process.kill()
        process.wait(10)
        eventually(lambda: not any(_alive(pid) for pid in family))


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
