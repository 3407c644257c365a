"""What happens when there is more than one can do: batches, refusals, deadlines, clients that leave, poison."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.fake import FakeRuntime
from service.app import create_app
from service.settings import Settings
from tests.service.helpers import Hold, Served, eventually, photo, serving, serving_fake


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as pool:
        yield pool


def pending(served: Served) -> int:
    count: int = served.app.state.engine.admission.pending
    return count


def in_flight(served: Served) -> int:
    count: int = served.app.state.gate.in_flight
    return count


def send(served: Served, image: bytes, *, route: str = "/embed", leave: bool = False) -> socket.socket:
    """Post an image over a bare socket, and do not wait for the answer."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n"
    connection.sendall(head.encode() + image)
    if leave:
        connection.close()
    return connection


def status_of(connection: socket.socket) -> int:
    with closing(connection):
        return int(connection.recv(4096).split()[1])


def test_requests_share_batches_and_get_their_own_results(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, max_batch=8) as (served, runtime):
        with hold:
            asked = [pool.submit(served.embed, photo(seed)) for seed in range(32)]
            eventually(lambda: pending(served) == 32)
        answers = [future.result() for future in asked]
        vectors = {tuple(answer.json()["embeddings"][0]) for answer in answers}
        again = [served.embed(photo(seed)).json() for seed in range(32)]
    assert len(vectors) == 32
    assert [body["embeddings"] for body in again] == [answer.json()["embeddings"] for answer in answers]
    assert all(body["cached"] == [True] for body in again)
    sizes = [size for graph, size in runtime.calls if graph == "encoder"]
    assert sum(sizes) == 32
    assert max(sizes) == 8


def test_different_ids_never_share_a_batch(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    with serving_fake(fake_bundle, latency_ms=10) as (served, _):
        keeps = [0.25, 0.5, 1.0] * 6
        answers = list(pool.map(lambda keep: served.embed(photo(1), keep=keep, pooling="patches"), keeps))
    assert [np.shape(answer.json()["embeddings"]) for answer in answers] == [(1, int(16 * k), 32) for k in keeps]


def test_a_poisoned_image_fails_its_sender_alone(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    poison = preprocess(photo(3), fake_bundle.manifest.preprocess)

    hold = Hold()

    def is_poison(image: NDArray[Any]) -> bool:
        return hold(image) or np.array_equal(image, poison)

    with serving_fake(fake_bundle, fail_on=is_poison) as (served, runtime):
        with hold:
            asked = [pool.submit(served.embed, photo(seed)) for seed in range(16)]
            eventually(lambda: pending(served) == 16)
        answers = [future.result() for future in asked]
        assert served.embed(photo(99)).status_code == 200
    assert [answer.status_code for answer in answers] == [500 if seed == 3 else 200 for seed in range(16)]
    assert answers[3].json()["error"] == {
        "type": "internal",
        "message": "the service failed on this request; its log says more",
        "param": None,
        "code": 500,
    }
    assert any(size > 1 for _, size in runtime.calls)


def test_a_broken_image_costs_its_batch_no_second_call(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    """Where the lane decodes: the others of the batch are not decoded again, nor run in parts."""
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, decode_threads=0) as (served, runtime):
        with hold:
            first = pool.submit(served.embed, photo(0))
            eventually(lambda: runtime.calls)
            asked = [pool.submit(served.embed, photo(seed)[: 40 if seed == 3 else None]) for seed in range(1, 7)]
            eventually(lambda: pending(served) == 7)
        assert [future.result().status_code for future in asked] == [200, 200, 400, 200, 200, 200]
        assert first.result().status_code == 200
    assert runtime.calls == [("encoder", 1), ("encoder", 5)]


def test_a_full_queue_refuses_with_a_time_that_holds(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    hold = Hold()
    limits: dict[str, Any] = {"max_images": 4, "max_queue": 12}
    with serving_fake(fake_bundle, latency_ms=100, max_batch=1, fail_on=hold, **limits) as (served, _):
        for seed in range(3):  # so that there is a pace to speak of
            served.embed(photo(seed))
        with hold:
            waiting = [pool.submit(served.embed, photo(seed)) for seed in range(10, 22)]
            eventually(lambda: pending(served) == 12)
            refused = served.embed(photo(50))
        start = time.monotonic()
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert (error["type"], error["message"]) == (
            "overloaded",
            "12 images are waiting or being worked on, 12 at most",
        )
        retry_after_s = int(refused.headers["retry-after"])
        assert 1 <= retry_after_s <= 4  # 12 x 0.1 s
        assert {future.result().status_code for future in waiting} == {200}
        assert time.monotonic() - start <= retry_after_s
        assert served.embed(photo(50)).status_code == 200


def test_a_request_is_taken_whole_or_not_at_all(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, max_images=4, max_queue=4) as (served, runtime):
        with hold:
            first = pool.submit(served.embed, photo(0))
            eventually(lambda: runtime.calls)
            refused = served.http.post("/embed", files=[("file", photo(seed)) for seed in range(1, 5)])
        assert refused.status_code == 429
        assert first.result().status_code == 200
        assert len(runtime.calls) == 1
        eventually(lambda: pending(served) == 0)


def test_what_is_cached_needs_no_place(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, max_images=1, max_queue=1) as (served, runtime):
        served.embed(photo(0))
        with hold:
            blocking = pool.submit(served.embed, photo(1))
            eventually(lambda: len(runtime.calls) == 2)
            assert served.embed(photo(2)).status_code == 429
            assert served.embed(photo(0)).json()["cached"] == [True]
        assert blocking.result().status_code == 200


def test_identical_requests_in_flight_are_computed_once(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, cache_bytes=0) as (served, runtime):
        with hold:
            asked = [pool.submit(served.embed, photo(0)) for _ in range(12)]
            eventually(lambda: in_flight(served) == 12)
        answers = [future.result().json() for future in asked]
    assert all(answer["embeddings"] == answers[0]["embeddings"] for answer in answers)
    assert all(answer["cached"] == [False] for answer in answers)
    assert runtime.calls == [("encoder", 1)]


def test_one_of_two_who_leaves_does_not_cost_the_other_its_answer(fake_bundle: Bundle) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold) as (served, runtime):
        with hold:
            leaves = send(served, photo(0))
            eventually(lambda: runtime.calls)
            stays = send(served, photo(0))
            eventually(lambda: in_flight(served) == 2)
            leaves.close()
            eventually(lambda: in_flight(served) == 1)
        assert status_of(stays) == 200
    assert len(runtime.calls) == 1


def test_work_of_clients_that_left_is_dropped_before_it_is_batched(fake_bundle: Bundle) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, max_batch=1) as (served, runtime):
        with hold:
            first = send(served, photo(0))
            eventually(lambda: runtime.calls)
            gone = [send(served, photo(seed)) for seed in range(1, 11)]
            eventually(lambda: pending(served) == 11)
            for connection in gone:
                connection.close()
            eventually(lambda: pending(served) == 1)
            last = send(served, photo(20))
        assert (status_of(first), status_of(last)) == (200, 200)
        metrics = served.http.get("/metrics").text
    assert len(runtime.calls) == 2
    assert 'maeve_requests_total{route="/embed",status="499"} 10.0' in metrics


def test_a_client_that_leaves_in_the_middle_of_its_upload_is_forgotten(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, runtime):
        connection = socket.create_connection(("127.0.0.1", served.port))
        connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        eventually(lambda: in_flight(served) == 1)
        connection.close()
        eventually(lambda: in_flight(served) == 0)
        assert served.embed(photo(1)).status_code == 200
    assert len(runtime.calls) == 1


def test_the_deadline_is_kept_and_the_work_dropped(fake_bundle: Bundle) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, max_batch=1) as (served, runtime):
        with hold:
            first = send(served, photo(0))
            eventually(lambda: runtime.calls)
            start = time.monotonic()
            late = served.http.post("/embed", content=photo(1), headers={"x-request-timeout-ms": "100"})
            assert 0.1 <= time.monotonic() - start < 5
            eventually(lambda: pending(served) == 1)
        assert late.status_code == 504
        assert late.json()["error"] == {
            "type": "deadline_exceeded",
            "message": "not done within 100 ms",
            "param": None,
            "code": 504,
        }
        assert status_of(first) == 200
        eventually(lambda: pending(served) == 0)
    assert len(runtime.calls) == 1


def test_the_setting_limits_what_the_header_asks_for(fake_bundle: Bundle) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, timeout_ms=100) as (served, _), hold:
        answer = served.http.post("/embed", content=photo(1), headers={"x-request-timeout-ms": "60000"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (504, "not done within 100 ms")


def test_a_slow_upload_ends_at_the_deadline(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, timeout_ms=150) as (served, _):
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        assert status_of(connection) == 504


class Unforeseen(FakeRuntime):
    """Fails with what nobody expects."""

    def run(self, graph: Any, inputs: Any, wanted: Any = None) -> Arrays:
        del graph, inputs, wanted
        raise ZeroDivisionError("surprise")


def test_an_unforeseen_failure_has_the_shape_of_all_and_tells_nothing(fake_bundle: Bundle) -> None:
    with serving(create_app(Settings(), bundle=fake_bundle, runtime=Unforeseen(fake_bundle))) as served:
        answer = served.embed(photo(1))
        assert served.http.get("/readyz").status_code == 200
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "internal"
    assert "surprise" not in answer.text


def test_the_loop_stays_free_while_images_are_worked_on(fake_bundle: Bundle, pool: ThreadPoolExecutor) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold) as (served, runtime):
        with hold:
            working = [pool.submit(served.embed, photo(seed)) for seed in range(4)]
            eventually(lambda: runtime.calls)
            assert [served.http.get("/livez").status_code for _ in range(20)] == [200] * 20
        assert {future.result().status_code for future in working} == {200}


def test_pipelined_requests_are_answered_one_after_the_other(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, runtime):
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        image = photo(1)
        request = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n".encode() + image
        connection.sendall(request * 3)
        received = b""
        while received.count(b"HTTP/1.1 200") < 3:
            received += connection.recv(65536)
        connection.close()
    assert len(runtime.calls) == 1  # the other two from the cache


def test_stages_and_images_are_counted(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        for seed in (1, 1, 2):
            served.embed(photo(seed))
        text = served.http.get("/metrics").text
    assert 'maeve_images_total{operation="embed",source="computed"} 2.0' in text
    assert 'maeve_images_total{operation="embed",source="memory"} 1.0' in text
    assert 'maeve_stage_seconds_count{stage="infer"} 2.0' in text
    assert 'maeve_batch_images_count{operation="embed"} 2.0' in text
    assert "maeve_cache_entries 2.0" in text
    assert "maeve_pending_images 0.0" in text


def test_threads_end_with_the_service(fake_bundle: Bundle) -> None:
    before = set(threading.enumerate())
    with serving_fake(fake_bundle, lanes=3, decode_threads=2) as (served, _):
        served.embed(photo(1))
        names = {t.name.split("-")[0].split("_")[0] for t in set(threading.enumerate()) - before}
        assert names >= {"lane", "decode", "render"}
    ours = ("lane", "decode", "render", "uvicorn")
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith(ours)]


def test_info_tells_what_is_served(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, lanes=2, max_batch=4) as (served, _):
        info = json.loads(httpx.get(served.url + "/info").content)
    assert (info["name"], info["digest"]) == ("fake", fake_bundle.manifest.digest)
    assert info["runtime"] == {"name": "fake", "device": "cpu", "precision": "fp32", "lanes": 2, "max_batch": 4}
    assert info["operations"] == {"embed": True, "reconstruct": True, "classify": True}
    assert info["model"]["image_size"] == [32, 32]
    assert info["preprocess"] == {"resize": [36, 36], "crop": [32, 32]}
