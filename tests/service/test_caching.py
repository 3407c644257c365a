"""Caches over HTTP: nothing ever gets another's vector, and Redis may come and go."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from bundle.store import Bundle
from tests.service.helpers import Hold, RedisServer, Served, eventually, make_bundle, photo, serving_fake


def vector(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["embeddings"][0]
    return found


def cached(answer: httpx.Response) -> bool:
    found: bool = answer.json()["cached"][0]
    return found


def test_two_images_of_one_size_never_share_a_vector(fake_bundle: Bundle) -> None:
    """Same width and height, same number of bytes."""
    images = [photo(seed, "BMP") for seed in range(50)]
    assert len({len(image) for image in images}) == 1
    with serving_fake(fake_bundle) as (served, _):
        first = [served.embed(image) for image in images]
        again = [served.embed(image) for image in images]
    assert len({tuple(vector(answer)) for answer in first}) == 50
    assert not any(map(cached, first))
    assert all(map(cached, again))
    assert list(map(vector, again)) == list(map(vector, first))


@pytest.mark.parametrize(
    "params",
    [
        {"pooling": "cls"},
        {"pooling": "cls,mean"},
        {"keep": 0.5},
        {"pooling": "patches"},
        {"pooling": "patches", "keep": 0.5},
    ],
)
def test_another_parameter_never_hits(fake_bundle: Bundle, params: dict[str, Any]) -> None:
    with serving_fake(fake_bundle) as (served, _):
        assert not cached(served.embed(photo(1)))
        other = served.embed(photo(1), **params)
        assert not cached(other)
        assert cached(served.embed(photo(1), **params))
        assert served.embed(photo(1), **params).json()["embeddings"] == other.json()["embeddings"]
        assert not served.http.post("/classify", content=photo(1)).json()["cached"][0]


def test_what_is_done_after_the_cache_is_done_every_time(fake_bundle: Bundle) -> None:
    """The cache holds the vector as the model gave it; length and type are made for each answer."""
    with serving_fake(fake_bundle) as (served, runtime):
        plain = vector(served.embed(photo(1), normalize=False))
        scaled = served.embed(photo(1), normalize=True)
        half = served.embed(photo(1), normalize=False, dtype="float16")
        assert vector(served.embed(photo(1), normalize=False)) == plain
    assert cached(scaled)
    assert vector(scaled) != plain
    assert vector(half) == pytest.approx(plain, rel=1e-3)
    assert vector(half) != plain
    assert len(runtime.calls) == 1


def test_reconstructions_differ_by_their_mask(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        asked: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2}, {"mask_ratio": 0.5, "seed": 1}, {"mask": "1"}]
        first = [served.http.post("/reconstruct", content=photo(1), params=params).json() for params in asked]
        again = [served.http.post("/reconstruct", content=photo(1), params=params).json() for params in asked]
    assert not any(body["cached"] for body in first)
    assert all(body["cached"] for body in again)
    assert [body["images"] for body in again] == [body["images"] for body in first]
    assert len({body["images"]["reconstruction"] for body in first}) == 4


def test_the_memory_is_bounded(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, cache_bytes=10_000) as (served, _):
        for seed in range(60):
            served.embed(photo(seed))
        text = served.http.get("/metrics").text
        assert cached(served.embed(photo(59)))
        assert not cached(served.embed(photo(0)))
    used = next(float(line.split()[1]) for line in text.splitlines() if line.startswith("maeve_cache_bytes "))
    assert 5_000 < used <= 10_000


# Cache-Control


def counted(served: Served, name: str, **labels: str) -> float:
    registry = served.app.state.metrics.registry
    return float(registry.get_sample_value(name, labels) or 0)


def ask(served: Served, image: bytes, control: str = "", path: str = "/embed") -> httpx.Response:
    return served.http.post(path, content=image, headers={"cache-control": control} if control else {})


@pytest.mark.parametrize("path", ["/embed", "/classify", "/reconstruct"])
def test_no_store_neither_reads_nor_keeps(fake_bundle: Bundle, redis: RedisServer, path: str) -> None:
    redis.start()
    with via_redis(fake_bundle, redis, cache_bytes=10**6) as (served, runtime):
        for _ in range(2):
            answer = ask(served, photo(1), "no-store", path)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.json()["cached"] in (False, [False])
        calls = len(runtime.calls)
        kept = ask(served, photo(1), "", path)
        assert kept.json()["cached"] in (False, [False])
        assert len(runtime.calls) == 3 * calls // 2
        assert "cache-control" not in kept.headers
        eventually(stored_in(redis, 1))
        ask(served, photo(1), "no-store", path)
        assert len(runtime.calls) == 4 * calls // 2
        assert counted(served, "maeve_cache_requests_total", tier="memory", outcome="bypass") == 3
        assert counted(served, "maeve_cache_requests_total", tier="redis", outcome="bypass") == 3
        assert served.app.state.engine.memory.num_bytes > 0
        with Redis(port=redis.port) as connection:
            assert connection.dbsize() == 1


def test_no_cache_computes_anew_and_keeps(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, runtime):
        first = [ask(served, photo(1), "no-cache") for _ in range(2)]
        assert not any(map(cached, first))
        assert len(runtime.calls) == 2
        assert cached(ask(served, photo(1)))
        assert len(runtime.calls) == 2


def test_no_store_shares_no_flight_with_another_request(fake_bundle: Bundle) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold, lanes=8) as (served, runtime), ThreadPoolExecutor() as pool:
        with hold:
            flying = [pool.submit(ask, served, photo(1), control) for control in ("", "", "no-store", "no-store")]
            eventually(lambda: len(runtime.calls) == 3 and served.app.state.gate.in_flight == 4)
        answers = [each.result() for each in flying]
    assert [answer.headers.get("cache-control") for answer in answers] == [None, None, "no-store", "no-store"]
    assert len({tuple(vector(answer)) for answer in answers}) == 1
    assert len(runtime.calls) == 3


# Redis


def test_one_request_of_hits_in_both_tiers_and_misses(fake_bundle: Bundle, redis: RedisServer) -> None:
    """In order, with a flag each, one look-up in Redis, and the image that comes twice computed once."""
    redis.start()
    with via_redis(fake_bundle, redis) as (other, _):
        for seed in (1, 2):
            other.embed(photo(seed))
        eventually(stored_in(redis, 2))
    order = [5, 0, 1, 6, 5, 2, 0]
    with via_redis(fake_bundle, redis, cache_bytes=10**6) as (served, runtime), Redis(port=redis.port) as connection:
        served.embed(photo(0))
        before = connection.info("commandstats")["cmdstat_mget"]["calls"]
        answer = served.http.post("/embed", files=[("file", photo(seed)) for seed in order]).json()
        assert connection.info("commandstats")["cmdstat_mget"]["calls"] == before + 1
        assert answer["cached"] == [False, True, True, False, False, True, True]
        assert sum(size for _, size in runtime.calls) == 3  # 0, then 5 and 6
        assert {
            outcome: counted(served, "maeve_cache_requests_total", tier="redis", outcome=outcome)
            for outcome in ("hit", "miss", "error", "bypass")
        } == {"hit": 2, "miss": 3, "error": 0, "bypass": 0}
        assert counted(served, "maeve_cache_requests_total", tier="memory", outcome="hit") == 2
        assert answer["embeddings"] == [served.embed(photo(seed)).json()["embeddings"][0] for seed in order]


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 132, b"\xff" * 132])
def test_what_is_not_ours_in_redis_is_computed_anew(fake_bundle: Bundle, redis: RedisServer, damage: bytes) -> None:
    redis.start()
    with via_redis(fake_bundle, redis) as (served, _), Redis(port=redis.port) as connection:
        want = vector(served.embed(photo(1)))
        eventually(stored_in(redis, 1))
        [key] = connection.keys()
        whole = connection.get(key)
        connection.set(key, damage)
        again = served.embed(photo(1))
        assert (vector(again), cached(again)) == (want, False)
        eventually(lambda: connection.get(key) == whole)


def test_a_full_redis_costs_no_request_and_no_hit(fake_bundle: Bundle, redis: RedisServer) -> None:
    redis.start()
    with via_redis(fake_bundle, redis) as (served, _), Redis(port=redis.port) as connection:
        served.embed(photo(1))
        eventually(stored_in(redis, 1))
        connection.config_set("maxmemory", "1")
        assert {served.embed(photo(seed)).status_code for seed in range(2, 12)} == {200}
        assert cached(served.embed(photo(1)))
        assert up(served)
        eventually(lambda: counted(served, "maeve_redis_errors_total") >= 1)


def via_redis(bundle: Bundle, redis: RedisServer, **settings: Any) -> Any:
    """With more patience than a Redis beside busy tests may need."""
    return serving_fake(bundle, redis_url=redis.url, **({"cache_bytes": 0, "redis_timeout_ms": 2000} | settings))


def up(served: Served) -> bool:
    return "maeve_redis_up 1.0" in served.http.get("/metrics").text


def stored_in(redis: RedisServer, count: int) -> Callable[[], bool]:
    def check() -> bool:
        with Redis(port=redis.port) as connection:
            return int(connection.dbsize()) >= count

    return check


def test_services_of_one_bundle_share_results(fake_bundle: Bundle, redis: RedisServer) -> None:
    redis.start()
    with via_redis(fake_bundle, redis) as (first, _), via_redis(fake_bundle, redis) as (second, runtime):
        computed = first.embed(photo(1))
        eventually(stored_in(redis, 1))
        found = second.embed(photo(1))
    assert (cached(computed), cached(found)) == (False, True)
    assert vector(found) == vector(computed)
    assert runtime.calls == []


def test_another_bundle_never_hits(fake_bundle: Bundle, redis: RedisServer, tmp_path: Path) -> None:
    redis.start()
    other = make_bundle(tmp_path / "other", provenance={**fake_bundle.manifest.provenance.model_dump(), "epochs": 9})
    assert other.manifest.digest != fake_bundle.manifest.digest
    with via_redis(fake_bundle, redis) as (first, _), via_redis(other, redis) as (second, runtime):
        first.embed(photo(1))
        eventually(stored_in(redis, 1))
        assert not cached(second.embed(photo(1)))
    assert len(runtime.calls) == 1


def test_what_redis_knows_goes_into_the_memory(fake_bundle: Bundle, redis: RedisServer) -> None:
    redis.start()
    with via_redis(fake_bundle, redis) as (first, _):
        first.embed(photo(1))
        eventually(stored_in(redis, 1))
    with via_redis(fake_bundle, redis, cache_bytes=10**6) as (second, _):
        assert cached(second.embed(photo(1)))
        redis.kill()
        assert cached(second.embed(photo(1)))


def test_redis_may_be_down_at_the_start_and_come_later(fake_bundle: Bundle, redis: RedisServer) -> None:
    with via_redis(fake_bundle, redis) as (served, _):
        assert [served.embed(photo(seed)).status_code for seed in range(5)] == [200] * 5
        assert not up(served)
        redis.start()
        eventually(lambda: up(served))
        served.embed(photo(1))
        eventually(stored_in(redis, 1))
        assert cached(served.embed(photo(1)))


def test_redis_killed_and_restarted_under_load_costs_no_request(fake_bundle: Bundle, redis: RedisServer) -> None:
    redis.start()
    stop = threading.Event()
    with via_redis(fake_bundle, redis) as (served, _), ThreadPoolExecutor() as pool:

        def client(seed: int) -> list[tuple[int, float]]:
            answers = []
            with httpx.Client(base_url=served.url, timeout=20, trust_env=False) as http:
                while not stop.is_set():
                    start = time.monotonic()
                    answer = http.post("/embed", content=photo(seed % 1000))
                    answers.append((answer.status_code, time.monotonic() - start))
                    seed += 1
            return answers

        clients = [pool.submit(client, 100 * number) for number in range(4)]
        eventually(stored_in(redis, 5))
        redis.kill()
        eventually(lambda: not up(served))
        time.sleep(0.2)
        redis.start()
        eventually(lambda: up(served))
        eventually(stored_in(redis, 5))
        stop.set()
        answers = [answer for future in clients for answer in future.result()]
    assert {status for status, _ in answers} == {200}
    assert len(answers) > 50
    assert max(seconds for _, seconds in answers) < 2


def test_a_redis_that_hangs_costs_its_timeout_and_then_nothing(fake_bundle: Bundle, redis: RedisServer) -> None:
    redis.start()
    with via_redis(fake_bundle, redis, redis_timeout_ms=100) as (served, _):
        served.embed(photo(0))
        assert redis.process is not None
        redis.process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        assert [served.embed(photo(seed)).status_code for seed in range(1, 30)] == [200] * 29
        assert time.monotonic() - start < 3  # 29 x 100 ms and more, if each had waited
        assert not up(served)
        redis.process.send_signal(signal.SIGCONT)
        eventually(lambda: up(served))
