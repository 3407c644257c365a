"""The key, and what is still answered while the service stops."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from bundle.store import Bundle
from tests.service.helpers import Hold, eventually, photo, serving_fake

OPEN = ["/", "/livez", "/readyz", "/metrics", "/info", "/docs", "/openapi.json"]


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer hush"}, {"authorization": "bearer hush"}, {"x-api-key": "hush"}]
)
def test_the_key_opens(fake_bundle: Bundle, headers: dict[str, str]) -> None:
    with serving_fake(fake_bundle, api_key="hush") as (served, _):
        assert served.http.post("/embed", content=photo(1), headers=headers).status_code == 200


def test_without_the_key_nothing_but_looking_is_allowed(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_key="hush") as (served, runtime):
        for headers in (
            {},
            {b"authorization": b"Bearer hus"},
            {b"authorization": b"Basic hush"},
            {b"x-api-key": "h\xfcsh".encode("latin-1")},
        ):
            for route in ("/embed", "/classify", "/reconstruct", "/nowhere"):
                answer = served.http.post(route, content=photo(1), headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["type"] == "unauthorized"
        assert [served.http.get(path).status_code for path in OPEN] == [200] * len(OPEN)
    assert runtime.calls == []


def test_the_metrics_may_ask_for_the_key_too(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_key="hush", metrics_api_key=True) as (served, _):
        assert served.http.get("/metrics").status_code == 401
        assert served.http.get("/metrics", headers={"x-api-key": "hush"}).status_code == 200
        assert served.http.get("/livez").status_code == 200


def test_while_draining_what_is_in_flight_is_finished_and_nothing_new_is_taken(fake_bundle: Bundle) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold) as (served, runtime), ThreadPoolExecutor() as pool, hold:
        flying = pool.submit(served.embed, photo(1))
        eventually(lambda: runtime.calls)
        served.app.state.gate.drain()
        refused = served.embed(photo(2))
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "unavailable")
        assert refused.headers["retry-after"] == "1"
        ready = served.http.get("/readyz")
        assert (ready.status_code, ready.json()["error"]["message"]) == (503, "the service is stopping")
        assert [served.http.get(path).status_code for path in ("/livez", "/metrics", "/info", "/")] == [200] * 4
        hold.release()
        assert flying.result().status_code == 200


def test_a_dead_lane_is_noticed(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        assert served.http.get("/livez").status_code == 200
        batcher = served.app.state.engine.device._batcher
        asyncio.run_coroutine_threadsafe(batcher.close(), batcher._loop).result(10)  # as nothing else can end lanes
        for route in ("/livez", "/readyz"):
            assert served.http.get(route).status_code == 503
        assert served.embed(photo(1)).status_code == 503
