"""Several processes, and what happens when they are killed, frozen, stopped and given another bundle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.store import Bundle
from tests.service.helpers import eventually, make_bundle, photo, serving_fake
from tests.service.ipc.helpers import ROOT, Fleet, alive, children, expected, fleet, load


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """pytest's own may be too deep for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="m") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def link(fake_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A symbolic link to the bundle, which a test may turn elsewhere."""
    link = tmp_path_factory.mktemp("fleet") / "current"
    link.symlink_to(fake_bundle.path)
    return link


@pytest.fixture(scope="module")
def served(link: Path, short_folder: Path) -> Iterator[Fleet]:
    with fleet(link, short_folder, "--workers", "2", "--stall-s", "3", "--max-queue", "100") as served:
        yield served


def tensor(name: str, datatype: str, array: NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": array.shape, "data": array.ravel().tolist()}


def turn(link: Path, target: Path) -> None:
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    fresh.replace(link)


def test_every_worker_gives_the_vectors_of_one_process(served: Fleet, fake_bundle: Bundle) -> None:
    answerers = set()
    for seed in range(12):
        image = photo(seed, "PNG", 50, 40 + seed)
        answer = served.post(image)
        np.testing.assert_array_equal(np.frombuffer(answer.content, "<f4"), expected(fake_bundle, image))
        answerers.add(served.processes()["answered_by"])
    assert answerers <= {"http-0", "http-1"}


def test_info_says_how_many_passes_a_worker_lets_in(served: Fleet) -> None:
    """Half of its own places, which are 64 rather than 50: a request of max_images must fit."""
    limits = served.get("/info").json()["limits"]
    assert (limits["max_queue"], limits["max_passes"]) == (100, 32)
    statuses = [
        httpx.post(f"{served.url}/reconstruct", content=photo(1), params={"passes": passes}, timeout=20).status_code
        for passes in (32, 33)
    ]
    assert statuses == [200, 422]


@pytest.mark.parametrize("masked", [False, True], ids=["pixels", "ids_keep"])
def test_tensors_are_those_of_one_process(served: Fleet, fake_bundle: Bundle, masked: bool) -> None:
    """Every output of the v2 protocol, alone and together."""
    squares = np.random.default_rng(5).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    inputs = [tensor("pixels", "UINT8", squares)]
    names = ["cls", "mean", "tokens"]
    if masked:
        inputs.append(tensor("ids_keep", "INT64", np.array([[1, 5, 9], [0, 2, 15]])))
    else:
        names.append("logits")
    with serving_fake(fake_bundle, cache_bytes=0) as (single, _):
        for outputs in ([], *([name] for name in names), names):
            asked = {"inputs": inputs, "outputs": [{"name": name} for name in outputs]}
            want = single.http.post("/v2/models/fake/infer", json=asked)
            answer = httpx.post(f"{served.url}/v2/models/fake/infer", json=asked, timeout=20)
            assert (answer.status_code, answer.json()["outputs"]) == (200, want.json()["outputs"]), outputs


def test_an_anomaly_map_is_that_of_one_process(served: Fleet, fake_bundle: Bundle) -> None:
    """Its passes are slots of their own, with one image's pixels in them."""
    params = {"passes": 8, "mask_ratio": 0.5, "seed": 3}
    with serving_fake(fake_bundle, cache_bytes=0) as (single, _):
        for seed in range(6):
            want = single.http.post("/reconstruct", content=photo(seed), params=params)
            answer = httpx.post(f"{served.url}/reconstruct", content=photo(seed), params=params, timeout=20)
            assert (answer.status_code, answer.json()) == (200, want.json())


def test_a_killed_device_costs_only_what_it_had_in_hand(served: Fleet, fake_bundle: Bundle) -> None:
    (device,) = served.processes()["devices"]
    with load(served, fake_bundle) as clients:
        os.kill(device["pid"], signal.SIGKILL)
        eventually(lambda: clients.counts[503] > 0)
        eventually(served.ready)
        clients.answered()
    assert set(clients.counts) == {200, 503}
    assert (clients.lost, clients.wrong) == (0, 0)
    (successor,) = served.processes()["devices"]
    assert successor["pid"] != device["pid"]
    assert (successor["state"], successor["restarts"]) == ("serving", device["restarts"] + 1)


def test_not_ready_while_a_device_is_started_again(served: Fleet) -> None:
    (device,) = served.processes()["devices"]
    os.kill(device["pid"], signal.SIGKILL)
    seen = None
    until = time.monotonic() + 10
    while seen is None and time.monotonic() < until:
        answer = served.get("/readyz")
        seen = answer if answer.status_code == 503 else None
    assert seen is not None
    assert seen.json()["error"]["message"].startswith("no device is ready: ")
    assert served.get("/livez").status_code == 200
    refused = served.post(photo(1))
    assert refused.status_code in (200, 503)  # it may be back by now
    eventually(served.ready)


def test_a_frozen_device_is_found_by_its_silence(served: Fleet, fake_bundle: Bundle) -> None:
    (device,) = served.processes()["devices"]
    with load(served, fake_bundle) as clients:
        os.kill(device["pid"], signal.SIGSTOP)
        eventually(lambda: not alive(device["pid"]), 20)
        eventually(served.ready)
        clients.answered()
    assert set(clients.counts) <= {200, 503}
    assert (clients.lost, clients.wrong) == (0, 0)


def test_a_killed_worker_takes_its_connections_alone(served: Fleet, fake_bundle: Bundle) -> None:
    worker = served.processes()["workers"][0]
    with load(served, fake_bundle) as clients:
        os.kill(worker["pid"], signal.SIGKILL)
        eventually(lambda: served.processes()["workers"][0]["state"] == "serving", 30)
        clients.answered()
    assert set(clients.counts) == {200}
    assert clients.lost <= 4  # clients
    assert clients.wrong == 0
    assert served.processes()["workers"][0]["pid"] != worker["pid"]
    assert served.processes()["devices"][0]["state"] == "serving"


def test_sighup_switches_bundles_without_a_failed_request(
    served: Fleet, fake_bundle: Bundle, link: Path, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other", name="other")
    before = set(served.pids())
    with load(served, fake_bundle) as clients:
        turn(link, other.path)
        served.process.send_signal(signal.SIGHUP)
        eventually(lambda: clients.digests[-1] == other.manifest.digest, 30)
        clients.answered()
    assert (set(clients.counts), clients.lost, clients.wrong) == ({200}, 0, 0)
    switches = sum(a != b for a, b in zip(clients.digests, clients.digests[1:], strict=False))
    assert switches == 1
    eventually(lambda: len(served.processes()["devices"]) == 1)
    (device,) = served.processes()["devices"]
    assert device["pid"] not in before

    turn(link, fake_bundle.path)
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: served.get("/info").json()["name"] == "fake", 30)


def test_a_bad_bundle_is_refused_and_the_old_one_goes_on(
    served: Fleet, fake_bundle: Bundle, link: Path, tmp_path: Path
) -> None:
    broken = make_bundle(tmp_path / "broken", name="broken")
    (broken.path / "encoder.onnx").write_bytes(b"altered")
    eventually(lambda: len(served.processes()["devices"]) == 1)
    before = served.pids()
    with load(served, fake_bundle) as clients:
        turn(link, broken.path)
        served.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the bundle is not switched: " in served.log.read_text())
        clients.answered()
    assert "encoder.onnx was altered" in served.log.read_text()
    turn(link, fake_bundle.path)
    assert (set(clients.counts), set(clients.digests)) == ({200}, {fake_bundle.manifest.digest})
    assert served.pids() == before


def test_a_reload_that_fails_in_any_way_is_refused(
    served: Fleet, fake_bundle: Bundle, link: Path, tmp_path: Path
) -> None:
    def refused() -> int:
        return served.log.read_text().count("the bundle is not switched")

    before = served.pids()
    known = refused()
    turn(link, link)  # it leads to itself
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: refused() == known + 1)
    (folder,) = served.log.parent.glob("maeve-*")
    away = folder.rename(folder.with_name("away"))
    turn(link, make_bundle(tmp_path / "other", name="other").path)
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: refused() == known + 2)
    away.rename(folder)
    turn(link, fake_bundle.path)
    assert served.pids() == before
    assert served.post(photo(1)).status_code == 200


def test_any_worker_tells_the_figures_of_all(served: Fleet, fake_bundle: Bundle) -> None:
    def told(sample: str) -> float:
        lines = served.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))

    computed = told('maeve_images_total{operation="embed",source="computed"}')
    batched = told('maeve_batch_images_sum{operation="embed"}')  # which the device counts
    for seed in range(10):
        assert served.post(photo(100 + seed)).status_code == 200
    assert told('maeve_images_total{operation="embed",source="computed"}') == computed + 10
    assert told('maeve_batch_images_sum{operation="embed"}') == batched + 10
    processes = served.processes()
    for kind in ("worker", "device"):
        assert told(f'maeve_restarts_total{{process="{kind}"}}') >= max(p["restarts"] for p in processes[f"{kind}s"])
    assert told('maeve_reloads_total{outcome="switched"}') == 2
    assert told('maeve_reloads_total{outcome="refused"}') == 3
    (told_bundle,) = [line for line in served.get("/metrics").text.splitlines() if line.startswith("maeve_bundle{")]
    assert f'digest="{fake_bundle.manifest.digest}"' in told_bundle


def test_sigterm_finishes_what_is_in_flight(served: Fleet) -> None:
    """The last of this service."""
    pids = served.pids()
    image = photo(1)
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n"
    connection.sendall(head.encode() + image[:100])
    time.sleep(0.2)  # nothing tells from outside that its worker has read the head
    served.process.send_signal(signal.SIGTERM)
    eventually(lambda: not served.ready())
    connection.sendall(image[100:])
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.close()
    assert served.process.wait(20) == 0
    assert not [pid for pid in pids if alive(pid)]
    assert list(served.log.parent.iterdir()) == [served.log]  # and no file


def refuse_half_a_switch(served: Fleet, link: Path, other: Bundle) -> None:
    """The first device of another bundle can be started, the second one cannot; none stays."""
    before = served.pids()
    (folder,) = served.log.parent.glob("maeve-*")
    (folder / "device-2-1").touch()
    turn(link, other.path)
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the bundle is not switched" in served.log.read_text())
    eventually(lambda: children(served.process.pid) == set(before), 20)
    assert served.pids() == before
    assert served.ready()


def test_two_devices_share_the_work_and_nothing_outlives_the_supervisor(
    fake_bundle: Bundle, short_folder: Path
) -> None:
    folder = short_folder / "b"
    folder.mkdir()
    link = folder / "current"
    link.symlink_to(fake_bundle.path)
    with fleet(link, folder, "--devices", "cpu,cpu") as served:
        first, second = served.processes()["devices"]
        assert {first["name"], second["name"]} == {"device-cpu-0", "device-cpu-1"}
        with load(served, fake_bundle) as clients:
            os.kill(first["pid"], signal.SIGKILL)
            clients.answered(50)
            eventually(lambda: all(d["state"] == "serving" for d in served.processes()["devices"]), 20)
            os.kill(second["pid"], signal.SIGKILL)
            clients.answered(50)
        assert clients.counts[503] <= 2 * 4  # what the killed one had in hand: an image of each client
        assert (clients.lost, clients.wrong) == (0, 0)
        eventually(lambda: all(d["state"] == "serving" for d in served.processes()["devices"]), 20)
        refuse_half_a_switch(served, link, make_bundle(short_folder / "other", name="other"))
        pids = served.pids()
        os.kill(pids[-1], signal.SIGSTOP)  # one that cannot notice anything
        served.process.kill()
        eventually(lambda: not [pid for pid in pids if alive(pid)])
        eventually(lambda: set(folder.iterdir()) == {served.log, link})


def test_what_cannot_be_served_ends_with_a_line_and_status_2(fake_bundle: Bundle, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = {
            ("--bundle", str(tmp_path), "--port", "0"): "is not a bundle",
            (
                "--bundle",
                str(fake_bundle.path),
                "--port",
                port,
            ): f"error: --port: cannot listen on 127.0.0.1 port {port}",
            ("--bundle", str(fake_bundle.path), "--port", "0", "--runtime", "onnxruntime"): "error: ",
        }
        commands = [[sys.executable, "-m", "service", *flags, "--workers", "2"] for flags in cases]
        started = [
            subprocess.Popen(each, cwd=ROOT, stderr=subprocess.PIPE, text=True) for each in commands
        ]  # fmt: skip
        for process, message in zip(started, cases.values(), strict=True):
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, message in errors.splitlines()[-1]) == (2, True), errors
