"""Another bundle while requests go on: the real command, its signals, and what it tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import httpx
import numpy as np
import pytest

from bundle.store import Bundle, load_bundle
from tests.service.helpers import eventually, free_port, make_bundle, photo

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    url: str
    http: httpx.Client
    log: Path

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def digest(self) -> str:
        digest: str = self.http.get("/info").json()["digest"]
        return digest

    def reloads(self, outcome: str) -> int:
        name = f'maeve_reloads_total{{outcome="{outcome}"}} '
        lines = self.http.get("/metrics").text.splitlines()
        return sum(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


@contextmanager
def running(bundle: Path, folder: Path, *flags: str) -> Iterator[Running]:
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "service", "--runtime", "fake", "--bundle", str(bundle), "--port", str(port)]
    with log.open("w") as err:
        process = subprocess.Popen([*command, *flags], cwd=ROOT, stderr=err, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
            eventually(lambda: process.poll() is not None or answers(http), 60)
            yield Running(process, url, http, log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/livez").status_code == 200
    except httpx.ConnectError:
        return False


def point(link: Path, to: Path) -> None:
    """Turn a link in one step, as one should."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(to)
    fresh.replace(link)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Two that give an image vectors of different poolings."""
    folder = tmp_path_factory.mktemp("bundles")
    one = make_bundle(folder / "one", pooling="cls")
    return one, make_bundle(folder / "two", pooling="mean")


@pytest.fixture
def link(tmp_path: Path, bundles: tuple[Bundle, Bundle]) -> Path:
    link = tmp_path / "current"
    link.symlink_to(bundles[0].path)
    return link


def test_no_request_fails_and_each_gets_one_bundle_s_vector(
    link: Path, tmp_path: Path, bundles: tuple[Bundle, Bundle]
) -> None:
    one, two = (bundle.manifest.digest for bundle in bundles)
    over = Event()
    with running(link, tmp_path) as service, ThreadPoolExecutor() as pool:

        def ask(worker: int) -> list[tuple[int, httpx.Response]]:
            with httpx.Client(base_url=service.url, timeout=20, trust_env=False) as http:
                got: list[tuple[int, httpx.Response]] = []
                while not over.is_set():
                    seed = 10 * worker + len(got) % 10
                    got.append((seed, http.post("/embed?normalize=false", content=photo(seed))))
                return got

        asking = [pool.submit(ask, worker) for worker in range(4)]
        for target in (bundles[1], bundles[0], bundles[1]):
            point(link, target.path)
            service.hang_up()
            eventually(lambda target=target: service.digest() == target.manifest.digest)  # type: ignore[misc]
            time.sleep(0.1)
        over.set()
        asked = [pair for future in asking for pair in future.result()]
        cls, mean = [
            {seed: service.http.post("/embed", params={"normalize": "false", "pooling": pooling}, content=photo(seed))
             .json()["embeddings"] for seed in range(40)}
            for pooling in ("cls", "mean")
        ]  # fmt: skip
        assert service.reloads("switched") == 3
    assert {answer.status_code for _, answer in asked} == {200}
    by_digest = {one: cls, two: mean}
    assert {answer.json()["digest"] for _, answer in asked} == {one, two}
    for seed, answer in asked:
        np.testing.assert_array_equal(answer.json()["embeddings"], by_digest[answer.json()["digest"]][seed])


def test_a_bad_bundle_is_refused_and_the_old_one_goes_on(
    link: Path, tmp_path: Path, bundles: tuple[Bundle, Bundle]
) -> None:
    bad = make_bundle(tmp_path / "bad", pooling="mean").path
    (bad / "encoder.onnx").write_bytes(b"damaged")
    with running(link, tmp_path) as service:
        for target, refused in ((bad, 1), (tmp_path / "nowhere", 2)):
            point(link, target)
            service.hang_up()
            eventually(lambda refused=refused: service.reloads("refused") == refused)  # type: ignore[misc]
            assert service.digest() == bundles[0].manifest.digest
            assert service.http.get("/readyz").status_code == 200
            assert service.http.post("/embed", content=photo(1)).status_code == 200
        errors = [line for line in service.log.read_text().splitlines() if "ERROR" in line]
        assert len(errors) == 2
        assert "not reloaded, the bundle before goes on" in errors[0]
        assert "encoder.onnx was altered or damaged" in errors[0]
        point(link, bundles[1].path)
        service.hang_up()
        eventually(lambda: service.digest() == bundles[1].manifest.digest)


def test_the_same_bundle_is_nothing_to_do_and_signals_in_a_row_are_few_reloads(link: Path, tmp_path: Path) -> None:
    with running(link, tmp_path) as service:
        for _ in range(20):
            service.hang_up()
        eventually(lambda: service.reloads("unchanged") >= 1)
        time.sleep(0.3)
        assert service.reloads("unchanged") < 20
        assert service.reloads("switched") == service.reloads("refused") == 0
        assert "nothing to reload" in service.log.read_text()


def test_the_check_says_what_would_be_served(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    def check(bundle: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service", "--check", "--runtime", "fake", "--bundle", str(bundle)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    good, bad = check(bundles[0].path), check(tmp_path)
    manifest = load_bundle(bundles[0].path).manifest
    assert good.returncode == 0
    assert good.stdout.startswith(f"ready to serve {manifest.name} ({manifest.digest[:12]}) with fake on cpu in fp32")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith(f"error: {tmp_path} is not a bundle: it has no manifest.json")
    assert bad.stderr.count("\n") == 1


def test_a_drain_closes_connections_and_refuses_new_ones_with_a_reason(link: Path, tmp_path: Path) -> None:
    with running(link, tmp_path) as service:
        image = photo(1)
        idle = httpx.Client(base_url=service.url, trust_env=False)
        assert "connection" not in idle.post("/embed", content=image).headers
        slow = service.http.build_request(
            "POST", "/embed", content=slowly(image), headers={"content-type": "image/png"}
        )
        with ThreadPoolExecutor() as pool:
            flying = pool.submit(service.http.send, slow)
            eventually(lambda: "maeve_requests_in_flight 1.0" in httpx.get(f"{service.url}/metrics").text)
            service.process.terminate()
            eventually(lambda: httpx.get(f"{service.url}/readyz").status_code == 503)
            refused = httpx.post(f"{service.url}/embed", content=image)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.headers["connection"] == "close"
            answer = flying.result()
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert service.process.wait(10) == 0
        idle.close()


@pytest.mark.parametrize(
    ("drain_s", "signals", "most_s"), [("1", 1, 6), ("60", 2, 4)], ids=["the drain is over", "a second signal"]
)
def test_a_reload_that_hangs_does_not_keep_the_process(
    link: Path, tmp_path: Path, drain_s: str, signals: int, most_s: float
) -> None:
    endless = tmp_path / "endless"
    endless.mkdir()
    os.mkfifo(endless / "manifest.json")
    with running(link, tmp_path, "--drain-s", drain_s) as service:
        point(link, endless)
        service.hang_up()
        with write_nothing(endless / "manifest.json"):
            for _ in range(signals):
                service.process.terminate()
                time.sleep(0.3)
            assert service.process.wait(most_s) == 0
        assert "Traceback" not in service.log.read_text()


@contextmanager
def write_nothing(pipe: Path) -> Iterator[None]:
    """From when there is a reader on; it waits until this ends."""
    writer: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):
            writer.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writer)

    eventually(is_read)
    try:
        yield
    finally:
        os.close(writer[0])


def slowly(image: bytes) -> Iterator[bytes]:
    """An upload that takes two seconds."""
    yield image[:100]
    time.sleep(2)
    yield image[100:]
