"""Against a real Redis: what it stores, and every way in which it can be gone."""

from __future__ import annotations

import asyncio
import signal
import time

import numpy as np
import pytest

from bundle.errors import CacheError
from service.cache import RemoteCache
from service.redis_store import RedisStore
from service.settings import Settings
from tests.service.helpers import RedisServer

TIMEOUT_S = 0.2


def store(redis: RedisServer) -> RedisStore:
    return RedisStore(redis.url, timeout_s=TIMEOUT_S, ttl_s=100, prefix="test")


async def test_it_stores_bytes_that_expire(redis: RedisServer) -> None:
    redis.start()
    table = store(redis)
    await table.write([("a", b"\0\xff"), ("b", b"")])
    assert await table.read(["a", "missing", "b"]) == [b"\0\xff", None, b""]
    assert 90 < await table._client.ttl("test:a") <= 100
    await table.close()


async def test_one_that_was_never_there_is_a_cache_error(redis: RedisServer) -> None:
    table = store(redis)
    for call in (table.read(["a"]), table.write([("a", b"")]), table.ping()):
        with pytest.raises(CacheError):
            await call
    await table.close()


async def test_it_may_die_and_come_back(redis: RedisServer) -> None:
    redis.start()
    table = store(redis)
    await table.ping()
    redis.kill()
    with pytest.raises(CacheError):
        await table.read(["a"])
    redis.start()
    await table.write([("a", b"x")])  # at once, although every pooled connection is dead
    assert await table.read(["a"]) == [b"x"]
    await table.close()


async def test_one_that_hangs_costs_the_timeout_and_leaves_no_stale_answer(redis: RedisServer) -> None:
    redis.start()
    table = store(redis)
    await table.write([("a", b"first"), ("b", b"second")])
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    start = time.perf_counter()
    with pytest.raises(CacheError, match="did not answer within 200 ms"):
        await table.read(["a"])
    assert time.perf_counter() - start < 5 * TIMEOUT_S
    redis.process.send_signal(signal.SIGCONT)
    assert await table.read(["b"]) == [b"second"]  # not the late answer to the read before
    await table.close()


async def test_many_large_results_are_all_stored_in_the_default_time(redis: RedisServer) -> None:
    redis.start()
    table = RedisStore(redis.url, timeout_s=Settings().redis_timeout_ms / 1000, ttl_s=100, prefix="test")
    cache = RemoteCache(table)
    value = np.arange(200_000, dtype=np.float32)  # 800 kB: all patches of an image
    async with asyncio.timeout(20):
        while await table._client.dbsize() < 48:
            for i in range(48):  # again, should this machine have paused in the middle of one
                cache.put(str(i), value)
            await asyncio.sleep(0.3)
            assert cache.up
    await cache.close()
