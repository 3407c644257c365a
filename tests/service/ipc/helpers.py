"""A service of several processes, started as users start it, and clients that check every answer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from bundle.masking import all_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.fake import FakeRuntime
from tests.service.helpers import NUM_PATCHES, eventually, free_port, photo

ROOT = Path(__file__).parents[3]
_OCTETS = {"accept": "application/octet-stream", "content-type": "image/png"}


class Fleet:
    """`process`: the supervisor. `log`: where the lines of all processes go."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self.url = f"http://127.0.0.1:{port}"
        self.port = port

    def get(self, path: str) -> httpx.Response:
        """Over a connection of its own, so that any worker may answer."""
        return httpx.get(self.url + path, timeout=20)

    def post(self, image: bytes, route: str = "/embed") -> httpx.Response:
        return httpx.post(self.url + route, content=image, params={"normalize": "false"}, headers=_OCTETS, timeout=20)

    def ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def processes(self) -> dict[str, Any]:
        told: dict[str, Any] = self.get("/info").json()["processes"]
        return told

    def pids(self) -> list[int]:
        told = self.processes()
        return [each["pid"] for each in (*told["workers"], *told["devices"])]


@contextmanager
def fleet(bundle: Path, folder: Path, *flags: str) -> Iterator[Fleet]:
    """On the fake runtime, without a cache: every answer is computed. `folder`: for the log and temporary files."""
    port = free_port()
    flags = ("--bundle", str(bundle), "--port", str(port), "--runtime", "fake", "--cache-bytes", "0", *flags)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAEVE_")}
    environment["TMPDIR"] = str(folder)
    log = folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *flags], cwd=ROOT, env=environment, stderr=stderr
        )  # fmt: skip
    started = Fleet(process, port, log)
    try:
        eventually(lambda: started.ready() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield started
    finally:
        process.kill()
        process.wait(20)


def alive(pid: int) -> bool:
    """Whether there is such a process that is more than an entry in its parent's table."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children(pid: int) -> set[int]:
    """The processes that one has started and that live."""
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {child for child in map(int, told) if alive(child)}


def expected(bundle: Bundle, image: bytes) -> NDArray[np.float32]:
    """The embedding that one process would compute."""
    batch = preprocess(image, bundle.manifest.preprocess)[None]
    rows = FakeRuntime(bundle).run("encoder", {"images": batch, "ids_keep": all_ids(1, NUM_PATCHES)}, ["mean"])["mean"]
    vector: NDArray[np.float32] = rows[0]
    return vector


class Clients:
    """Threads that embed images over and over, until `stop`. `counts`: by status; `lost`: requests whose connection
    ended without an answer; `wrong`: answers that are not their image's; `digests`: in the order of the first client's
    answers.
    """

    def __init__(self, served: Fleet, bundle: Bundle, num_clients: int = 4) -> None:
        self.counts: Counter[int] = Counter()
        self.lost = 0
        self.wrong = 0
        self.digests: list[str] = []
        self._served = served
        self._images = [photo(seed) for seed in range(16)]
        self._expected = [expected(bundle, image) for image in self._images]
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(num_clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a request was never answered"

    def answered(self, more: int = 20) -> None:
        """Wait for as many further answers of status 200."""
        want = self.counts[200] + more
        eventually(lambda: self.counts[200] >= want, 30)

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._served.url, timeout=20) as http:
            turn = number
            while not self._stopped.is_set():
                turn += 1
                self._ask(http, turn % len(self._images), first=number == 0)

    def _ask(self, http: httpx.Client, which: int, *, first: bool) -> None:
        try:
            answer = http.post(
                "/embed", content=self._images[which], params={"normalize": "false"}, headers=_OCTETS
            )  # fmt: skip
        except httpx.TransportError:
            with self._lock:
                self.lost += 1
            time.sleep(0.02)
            return
        right = answer.status_code != 200 or np.array_equal(
            np.frombuffer(answer.content, "<f4"), self._expected[which]
        )  # fmt: skip
        with self._lock:
            self.counts[answer.status_code] += 1
            self.wrong += not right
            if first and answer.status_code == 200:
                self.digests.append(answer.headers["maeve-digest"])
        if answer.status_code != 200:
            time.sleep(0.02)


@contextmanager
def load(served: Fleet, bundle: Bundle, num_clients: int = 4) -> Iterator[Clients]:
    clients = Clients(served, bundle, num_clients)
    try:
        clients.answered()
        yield clients
    finally:
        clients.stop()
