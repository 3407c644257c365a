"""A closed loop of wrk's, a client so light that it leaves the cores to the server; ours where wrk is missing.

wrk adds to its latencies what slower requests kept it from sending: where one took more than twice the mean, the ones
that clients at the mean's pace would have sent meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load.client import closed_loop
from benchmarks.load.outcome import Outcome
from benchmarks.load.requests import Target, first_number

_SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT_S = 60


def client_name() -> str:
    """What sends the closed loops."""
    if (path := shutil.which("wrk")) is None:
        return "asyncio, as wrk is not installed"
    words = subprocess.run([path, "-v"], capture_output=True, text=True, check=False).stdout.split()
    return f"wrk {words[1]}, one thread" if len(words) > 1 else "wrk, one thread"


def load(target: Target, clients: int, seconds: float, *, repeated: bool = False) -> Outcome:
    """A closed loop of `clients` connections; `seconds` are rounded up to whole ones. `repeated`: the same bodies again
    and again, for caches; wrk alone does that.

    RuntimeError if wrk does not run.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        if repeated:
            raise RuntimeError("repeated bodies need wrk: apt-get install wrk")
        return closed_loop(target, clients, seconds)
    with _requests(target) as folder:
        mode, least_most = "repeated" if repeated else "fresh", [str(bound) for bound in target.answer_bytes]
        command = [wrk, "-t1", f"-c{clients}", f"-d{math.ceil(seconds)}s", f"--timeout={_TIMEOUT_S}s", f"-s{_SCRIPT}"]
        command += [f"http://127.0.0.1:{target.port}/", "--", str(folder)]
        command += [str(len(target.bodies)), str(first_number()), mode, *least_most]
        return _outcome(command)


@contextmanager
def _requests(target: Target) -> Iterator[Path]:
    """The target's requests as the script reads them."""
    with tempfile.TemporaryDirectory(prefix="maeve-load-") as name:
        folder = Path(name)
        for i, body in enumerate(target.bodies):
            (folder / f"{i:05d}.head").write_bytes(target.head(body) + body.head)
            (folder / f"{i:05d}.tail").write_bytes(body.tail)
        yield folder


def _outcome(command: list[str]) -> Outcome:
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().strip()
    last = text.rpartition("\n")[2]
    if process.returncode != 0 or not last.startswith("{"):
        raise RuntimeError(f"wrk failed: {last or 'it said nothing'}")
    return outcome_of(json.loads(last), usage.ru_utime + usage.ru_stime)


def outcome_of(found: Mapping[str, float], cpu_s: float) -> Outcome:
    """Of what the script tells."""
    bad = int(found["status"] + found["wrong"])
    answers = int(found["requests"]) - bad
    p50, p99 = (found[name] / 1000 if answers else math.nan for name in ("p50_us", "p99_us"))
    return Outcome(found["duration_us"] / 1e6, answers, bad + int(found["lost"]), p50, p99, cpu_s)
