"""benchmarks.load against real servers whose delays and answers are known: it counts and times what happened."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request, Response

from benchmarks.load.client import arrivals, closed_loop, open_loop
from benchmarks.load.contest import Contestant, enter, vector
from benchmarks.load.limit import BareLoop, our_decode, overhead
from benchmarks.load.outcome import Outcome
from benchmarks.load.requests import Target, multipart, open_inference, raw, target
from benchmarks.load.servers import Launch, Server, ServerFailed, ours, running
from benchmarks.load.wrk import load, outcome_of
from bundle.store import Bundle
from tests.service.helpers import free_port, photo, serving

ANSWER = b"hello"
PHOTOS = [photo(seed, "JPEG") for seed in range(3)]

Client = Callable[[Target, int, float], Outcome]
CLIENTS = [
    pytest.param(closed_loop, id="asyncio"),
    pytest.param(load, id="wrk", marks=pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")),
]


@contextmanager
def known(*, delay_s: float = 0.05, status: int = 200, in_turn: bool = False) -> Iterator[tuple[Target, list[bytes]]]:
    """A server that takes `delay_s` for a request, `in_turn` one at a time; what it was sent."""
    bodies: list[bytes] = []
    app, lock = FastAPI(), asyncio.Lock()

    @app.post("/embed")
    async def embed(request: Request) -> Response:
        bodies.append(await request.body())
        async with lock if in_turn else contextlib.nullcontext():
            await asyncio.sleep(delay_s)
        return Response(ANSWER, status_code=status)

    with serving(app) as served:
        yield target(served.port, raw("/embed"), PHOTOS), bodies


@pytest.mark.parametrize("client", CLIENTS)
def test_a_closed_loop_has_as_many_requests_in_flight_as_clients(client: Client) -> None:
    """Four clients at 50 ms are 80 requests per second at most; no two bodies are the same, each is a photo's."""
    with known() as (to, bodies):
        found = client(to, 4, 1)
    assert found.errors == 0
    assert 50 <= found.rate <= 80
    assert found.answers <= len(bodies) <= found.answers + 4  # those in flight at the end
    assert 50 <= found.p50_ms < 75
    assert found.p50_ms <= found.p99_ms
    assert 0 < found.client_cpu_s < 1
    assert len(set(bodies)) == len(bodies)
    assert {body[:-8] for body in bodies} == set(PHOTOS)


@pytest.mark.parametrize("client", CLIENTS)
def test_requests_that_queue_in_the_server_take_clients_times_its_time(client: Client) -> None:
    with known(delay_s=0.02, in_turn=True) as (to, _):
        found = client(to, 8, 2)
    assert 160 <= found.p50_ms < 260
    assert 30 <= found.rate <= 50


@pytest.mark.parametrize("client", CLIENTS)
def test_another_status_is_an_error_and_no_answer(client: Client) -> None:
    with known(status=500) as (to, bodies):
        found = client(to, 4, 1)
    assert found.answers == 0
    assert np.isnan(found.p99_ms)
    assert len(bodies) - 4 <= found.errors <= len(bodies)
    assert found.errors > 0


@pytest.mark.parametrize("client", CLIENTS)
def test_a_body_of_another_length_is_an_error(client: Client) -> None:
    with known() as (to, bodies):
        found = client(replace(to, answer_bytes=(len(ANSWER) + 1, 100)), 4, 1)
        assert (found.answers, found.errors > 0) == (0, True)
        assert len(bodies) - 4 <= found.errors
        assert client(replace(to, answer_bytes=(len(ANSWER), len(ANSWER))), 4, 1).errors == 0


def test_nobody_listening_is_counted() -> None:
    nobody = target(free_port(), raw("/embed"), PHOTOS)
    assert closed_loop(nobody, 2, 0.2).errors > 0
    found = open_loop(nobody, 50, 0.5)
    assert found.answers == 0
    assert found.errors == len(list(arrivals(50, 0.5, 0)))


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_repeated_bodies_are_as_many_as_photos() -> None:
    with known(delay_s=0.01) as (to, bodies):
        load(to, 4, 1, repeated=True)
    assert len(set(bodies)) == len(PHOTOS) < len(bodies)


def test_without_wrk_our_own_client_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with known() as (to, _):
        assert load(to, 2, 0.5).answers > 0
        with pytest.raises(RuntimeError, match="repeated bodies need wrk"):
            load(to, 2, 0.5, repeated=True)


def test_the_outcome_of_wrk_s_account() -> None:
    told = {
        "requests": 100,
        "duration_us": 2_000_000,
        "wrong": 3,
        "status": 7,
        "lost": 5,
        "p50_us": 1500,
        "p99_us": 9000,
    }
    assert outcome_of(told, 0.25) == Outcome(2.0, answers=90, errors=15, p50_ms=1.5, p99_ms=9.0, client_cpu_s=0.25)
    assert outcome_of(told, 0.25).rate == 45


def test_arrivals_are_a_poisson_process() -> None:
    """The gaps of one have as standard deviation their mean; even ones have none."""
    moments = np.array(list(arrivals(200, 50, seed=3)))
    gaps = np.diff(moments)
    assert gaps.min() > 0
    assert moments[-1] < 50
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.05)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """At 40 requests per second of 200 ms each, eight are in flight and none waits for another."""
    with known(delay_s=0.2) as (to, bodies):
        found = open_loop(to, 40, 1)
    assert found.errors == 0
    assert found.answers == len(bodies) == len(list(arrivals(40, 1, 0)))
    assert 200 <= found.p50_ms < 260


def test_an_open_loop_s_latency_includes_the_queue() -> None:
    """One at a time at 50 ms are 20 per second: of 40 per second half wait, the last as long as all before it take."""
    with known(in_turn=True) as (to, bodies):
        found = open_loop(to, 40, 1)
    moments = list(arrivals(40, 1, 0))
    free, expected = 0.0, []
    for moment in moments:  # a queue of one server, by hand
        free = max(free, moment) + 0.05
        expected.append((free - moment) * 1000)
    assert found.answers == len(bodies) == len(moments)
    assert found.p50_ms == pytest.approx(np.percentile(expected, 50), rel=0.25, abs=30)
    assert found.p99_ms == pytest.approx(np.percentile(expected, 99), rel=0.25, abs=30)
    assert found.p99_ms > 500


def test_an_open_loop_without_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be above 0, got 0"):
        open_loop(target(1, raw("/"), PHOTOS), 0, 1)


def test_forms_keep_the_photo_and_its_number() -> None:
    with serving(_echo()) as served, httpx.Client(base_url=served.url, trust_env=False) as client:
        for form in (multipart("/form", "images"), open_inference("/json")):
            to = target(served.port, form, PHOTOS)
            answer = client.post(form.path, content=to.bodies[1].numbered(255), headers=dict(form.headers))
            assert answer.content[: len(PHOTOS[1])] == PHOTOS[1]
            assert answer.content[len(PHOTOS[1]) :] == b"000000ff"


def _echo() -> FastAPI:
    """Answers with the photo and the number that it was sent."""
    app = FastAPI()

    @app.post("/form")
    async def form(request: Request) -> Response:
        async with request.form() as fields:
            file = fields["images"]
            assert not isinstance(file, str)
            return Response(await file.read())

    @app.post("/json")
    async def document(request: Request) -> Response:
        sent = await request.json()
        return Response(base64.b64decode(sent["inputs"][0]["data"][0]) + sent["id"].encode())

    return app


def test_the_vector_of_every_answer() -> None:
    numbers = [0.5, -1.0, 2.0]
    for document in (
        {"model": "m", "dim": 3, "embeddings": [numbers], "cached": [False]},
        {"embedding": numbers},
        {"outputs": [{"shape": [1, 3], "data": numbers}]},
        [numbers],
    ):
        np.testing.assert_array_equal(vector(json.dumps(document).encode()), numbers)
    with pytest.raises(ValueError, match="no list of numbers"):
        vector(b'{"error": "no"}')


def test_our_service_is_held_still_goes_on_and_ends(tiny_bundle: Bundle) -> None:
    """And its overhead is what a request takes beyond decode and run, which the bare loop does alike."""
    bare = BareLoop(tiny_bundle, our_decode(tiny_bundle), PHOTOS)
    assert bare.rate(0.2) > 0
    with Server(ours(tiny_bundle.path), PHOTOS) as server:
        contestant = Contestant(server, "", (2,))
        enter(contestant, bare, PHOTOS)
        assert contestant.cosine > 0.9999
        held = closed_loop_within(server.target, 0.3)
        assert held == 0
        with running(server):
            found = closed_loop(server.target, 2, 0.5)
            assert found.answers > 0
            assert found.errors == 0
            costs = overhead(server.target, bare, PHOTOS, 0.5)
        assert 0 < costs.bare_ms < costs.request_ms
        assert costs.difference_ms > 0
        server.go_on()
        with pytest.raises(ServerFailed, match="other vectors: cosine"):
            enter(Contestant(server, "", (2,)), bare, [photo(9, "JPEG"), photo(8, "JPEG")])
    assert closed_loop(server.target, 1, 0.1).answers == 0


def closed_loop_within(to: Target, seconds: float) -> int:
    """Answers that came in this time, for a server that may give none."""

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", to.port)
        writer.write(to.request(1))
        try:
            async with asyncio.timeout(seconds):
                return len(await reader.read(1))
        except TimeoutError:
            return 0
        finally:
            writer.close()

    return asyncio.run(ask())


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no model at {port}')")
    started = time.monotonic()
    with pytest.raises(ServerFailed, match="Broken did not start: no model at"):
        Server(Launch("Broken", [sys.executable, str(script)], raw("/embed")), PHOTOS)
    assert time.monotonic() - started < 20
