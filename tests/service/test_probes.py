"""The three probes, in every state that a service can be in."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bundle.errors import InferenceError, RuntimeUnavailable
from bundle.store import Bundle
from runtime.fake import FakeRuntime
from service.ipc.child import Start
from service.ipc.framing import Control
from service.opening import is_asked_for, open_bundle
from service.programs import Item
from service.settings import Settings
from service.worker import Worker
from tests.service.helpers import Hold, Served, eventually, make_bundle, photo, serving_fake

PROBES = ("/livez", "/readyz", "/startupz")


def statuses(served: Served) -> list[int]:
    return [served.http.get(path).status_code for path in PROBES]


def message(served: Served, path: str) -> str:
    text: str = served.http.get(path).json()["error"]["message"]
    return text


def test_a_service_that_works_says_what_and_where(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_key="hush") as (served, _):
        for path, status in zip(PROBES, ("alive", "ready", "started"), strict=True):
            answer = served.http.get(path)
            assert answer.status_code == 200
            assert answer.json() == {
                "status": status,
                "name": fake_bundle.manifest.name,
                "digest": fake_bundle.manifest.digest,
                "devices": [{"runtime": "fake", "device": "cpu", "precision": "fp32"}],
            }


def test_before_there_is_an_engine_the_process_lives_and_nothing_else(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        state = served.app.state
        engine, state.engine, state.started = state.engine, None, False
        assert statuses(served) == [200, 503, 503]
        assert served.http.get("/livez").json() == {"status": "alive", "name": None, "digest": None, "devices": []}
        assert message(served, "/readyz") == message(served, "/startupz") == "the service is starting"
        assert served.embed(photo(1)).status_code == 503
        state.engine, state.started = engine, True


def test_once_started_it_has_started_whatever_comes(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        engine, served.app.state.engine = served.app.state.engine, None
        assert statuses(served) == [200, 503, 200]
        served.app.state.engine = engine
        assert statuses(served) == [200, 200, 200]


@pytest.mark.parametrize(
    ("stalled_s", "ready", "expected", "reason"),
    [
        (29.0, True, [200, 200, 200], None),
        (31.0, True, [503, 503, 200], "a model call on fake on cpu has not ended for 31 s, more than MAEVE_STALL_S"),
        (float("inf"), True, [503, 503, 200], "a thread that runs the model on fake on cpu has died"),
        (0.0, False, [200, 503, 200], "no device is ready; there are fake on cpu"),
    ],
)
def test_the_probes_believe_the_device(
    fake_bundle: Bundle, stalled_s: float, ready: bool, expected: list[int], reason: str | None
) -> None:
    with serving_fake(fake_bundle, stall_s=30) as (served, _):
        engine = served.app.state.engine
        device = engine.device
        engine.device = SimpleNamespace(infos=device.infos, stalled_s=stalled_s, ready=ready, held=0)
        assert statuses(served) == expected
        if reason is not None:
            assert message(served, "/readyz") == reason
        engine.device = device


def test_an_image_that_is_decoded_for_ever_is_the_end(fake_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold()

    def decode(encoded: Item) -> Item:
        hold(encoded.ids_keep)
        return Item(np.zeros((32, 32, 3), np.uint8), encoded.ids_keep)

    monkeypatch.setattr("service.engine.make_decoder", lambda _, __: decode)
    with serving_fake(fake_bundle, decode_threads=1, stall_s=1) as (served, _), ThreadPoolExecutor(1) as sender:
        with hold:
            answer = sender.submit(served.embed, photo(1))
            eventually(lambda: served.http.get("/livez").status_code == 503)
            assert message(served, "/livez").startswith("the decoding of an image has not ended for ")
            assert statuses(served) == [503, 503, 200]
        assert answer.result().status_code == 200
        assert statuses(served) == [200, 200, 200]


async def test_a_worker_tells_the_supervisor_of_its_decoders(tmp_path: Path) -> None:
    mine, its = socket.socketpair()
    worker = Worker(Start("http-0", Settings(), {"serve": None, "folder": str(tmp_path)}, its))
    control = await Control.over(mine)
    worker.app.state.engine = SimpleNamespace(stalled_s=7.0)
    async with worker._lifespan(worker.app):
        assert await control.receive() == {"type": "serving"}
        assert await control.receive() == {"type": "beat", "stalled_s": 7.0}
        worker.app.state.engine = None
    await control.close()


def test_a_device_that_was_not_asked_for_is_not_ready(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, device="cpu") as (served, _):
        engine = served.app.state.engine
        device = engine.device
        infos = (replace(device.infos[0], device="cuda:0"),)
        engine.device = SimpleNamespace(infos=infos, stalled_s=0.0, ready=True, held=0)
        assert statuses(served) == [200, 503, 200]
        assert message(served, "/readyz") == "the model runs on cuda:0, and cpu was asked for"
        engine.device = device


def test_a_start_on_a_device_that_was_not_asked_for_is_refused(fake_bundle: Bundle) -> None:
    runtime = FakeRuntime(fake_bundle)
    with pytest.raises(RuntimeUnavailable, match="the runtime computes on cpu, and cuda:1 was asked for"):
        open_bundle(fake_bundle, Settings(device="cuda:1"), runtime)
    with pytest.raises(InferenceError, match="closed"):
        runtime.run("encoder", {})


@pytest.mark.parametrize(
    ("device", "asked", "content"),
    [("cpu", "auto", True), ("cuda:0", "cuda", True), ("cuda:0", "cuda:0", True), ("cuda:0", "cuda:1", False),
     ("cpu", "cuda", False), ("cuda:0", "cpu", False)],
)  # fmt: skip
def test_what_a_setting_is_content_with(device: str, asked: str, content: bool) -> None:
    assert is_asked_for(device, asked) is content


class Recording(FakeRuntime):
    """A fake that may be warmed up."""

    name = "recording"


def test_before_ready_each_graph_has_run_in_each_usual_size(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    runtime = Recording(bundle, max_batch=6)
    open_bundle(bundle, Settings(), runtime)
    assert {graph for graph, _ in runtime.calls} == set(bundle.manifest.graphs)
    for graph in bundle.manifest.graphs:
        assert {size for name, size in runtime.calls if name == graph} == {1, 2, 4, 6}
