from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from bundle.errors import CacheError
from service.cache import (
    NO_READ,
    NO_STORE,
    USE,
    CachePolicy,
    CacheRefused,
    CacheTimeout,
    MemoryCache,
    RemoteCache,
    RemoteConfig,
    Vector,
    context_key,
    image_key,
    pack,
)
from service.metrics import Metrics

QUICK = RemoteConfig(failures=2, probe_min_s=0.01, probe_max_s=0.02, max_waiting=4)


def vector(value: float, size: int = 8) -> Vector:
    return np.full(size, value, np.float32)


# Keys


def test_a_key_changes_with_every_part_and_with_the_bytes() -> None:
    parts = ["digest", "onnxruntime", "fp32", "embed", "16", "cls"]
    keys = {image_key(context_key(*parts), b"image")}
    for i in range(len(parts)):
        keys.add(image_key(context_key(*parts[:i], "other", *parts[i + 1 :]), b"image"))
    keys.add(image_key(context_key(*parts), b"other"))
    keys.add(image_key(context_key(*parts[:-1]), b"image"))
    assert len(keys) == len(parts) + 3


def test_parts_cannot_run_into_each_other() -> None:
    assert context_key("ab", "c") != context_key("a", "bc")


# In this process


def test_the_memory_never_exceeds_its_bound_and_keeps_what_was_used_last() -> None:
    cache = MemoryCache(16_000)
    for i in range(100):
        cache.put(str(i), vector(i))
        assert cache.num_bytes <= 16_000
        assert cache.get("0") is not None or i == 0
    kept = [i for i in range(100) if cache.get(str(i)) is not None]
    assert kept[0] == 0
    assert kept[1:] == list(range(100 - len(kept) + 1, 100))
    assert len(cache) == len(kept) > 10


def test_a_value_that_would_push_out_the_rest_is_not_kept() -> None:
    cache = MemoryCache(80_000)
    cache.put("big", vector(1, 10_000))
    assert cache.get("big") is None
    assert cache.num_bytes == 0


def test_no_memory_keeps_nothing() -> None:
    cache = MemoryCache(0)
    cache.put("a", vector(1))
    assert (cache.get("a"), len(cache)) == (None, 0)


def test_what_is_put_again_takes_the_place_of_the_old() -> None:
    cache = MemoryCache(16_000)
    cache.put("a", vector(1, 8))
    cache.put("b", vector(1, 8))
    before = cache.num_bytes
    cache.put("a", vector(2, 8))
    assert cache.num_bytes == before
    assert [value.tolist() for value in (cache.get("a"), cache.get("b")) if value is not None] == [[2.0] * 8, [1.0] * 8]


# What a request lets them do


@pytest.mark.parametrize(
    ("header", "policy"),
    [
        (None, USE),
        ("", USE),
        ("max-age=60, no-transform", USE),
        ("no-cache", NO_READ),
        ("Max-Age=0", NO_READ),
        ("no-store", NO_STORE),
        ("no-cache, NO-STORE", NO_STORE),
    ],
)
def test_cache_control_is_understood(header: str | None, policy: CachePolicy) -> None:
    assert CachePolicy.of(header) is policy


# The remote one, over a table in this process that can fail on demand


class Table:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.broken = False
        self.full = False
        self.slow = False  # for writes
        self.reads: list[list[str]] = []
        self.writes: list[int] = []
        self.pings = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        self.reads.append(list(keys))
        await self._answer()
        return [self.values.get(key) for key in keys]

    async def write(self, items: Sequence[tuple[str, bytes]]) -> None:
        self.writes.append(len(items))
        await self._answer()
        if self.full:
            raise CacheRefused("full")
        if self.slow:
            raise CacheTimeout("slow")
        self.values.update(items)

    async def ping(self) -> None:
        self.pings += 1
        await self._answer()

    async def close(self) -> None:
        pass

    async def _answer(self) -> None:
        await self.gate.wait()
        if self.broken:
            raise CacheError("down")


@asynccontextmanager
async def remote(table: Table, config: RemoteConfig = QUICK) -> AsyncIterator[RemoteCache]:
    cache = RemoteCache(table, config)
    yield cache
    await cache.close()


async def until(condition: Callable[[], object], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what it asks about has no event
            await asyncio.sleep(0.002)


async def test_what_was_written_is_read_as_it_was() -> None:
    table = Table()
    async with remote(table) as cache:
        cache.put("a", vector(1.5))
        await until(lambda: table.values)
        found = await cache.get("a", 8)
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == [1.5] * 8
    raw = np.full(8, 1.5, "<f4").tobytes()
    assert table.values["a"] == raw + zlib.crc32(b"a" + raw).to_bytes(4, "little")


def sealed(key: str, raw: bytes) -> bytes:
    return raw + zlib.crc32(key.encode() + raw).to_bytes(4, "little")


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\0" * 32,
        b"\0" * 36,
        sealed("a", b"\0" * 31),
        sealed("a", b"\0" * 36),
        sealed("b", b"\0" * 32),
        sealed("a", np.full(8, np.nan, "<f4").tobytes()),
        sealed("a", np.full(8, -np.inf, "<f4").tobytes()),
    ],
    ids=["empty", "no checksum", "wrong checksum", "short", "long", "of another key", "nan", "infinite"],
)
async def test_what_was_not_written_under_this_key_by_a_cache_like_this_is_a_miss(stored: bytes) -> None:
    table = Table()
    table.values["a"] = stored
    async with remote(table) as cache:
        assert await cache.get("a", 8) is None
        assert cache.up


async def test_a_single_flipped_bit_is_a_miss() -> None:
    table = Table()
    async with remote(table) as cache:
        cache.put("a", vector(1.5))
        await until(lambda: table.values)
        whole = table.values["a"]
        for i in range(len(whole)):
            table.values["a"] = whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :]
            assert await cache.get("a", 8) is None, i
        table.values["a"] = whole
        assert await cache.get("a", 8) is not None


async def test_a_store_that_takes_no_writes_is_read_and_written_to_again_later() -> None:
    table = Table()
    table.values["known"] = pack("known", vector(2))
    table.full = True
    async with remote(table, RemoteConfig(failures=1, refused_s=0.1)) as cache:
        cache.put("a", vector(1))
        await until(lambda: table.writes)
        cache.put("b", vector(1))
        assert await cache.get("known", 8) is not None
        assert cache.up
        assert len(table.writes) == 1
        table.full = False
        await asyncio.sleep(0.15)
        cache.put("c", vector(1))
        await until(lambda: table.values.keys() == {"known", "c"})


async def test_outcomes_and_bytes_are_counted() -> None:
    table, metrics = Table(), Metrics()
    cache = RemoteCache(table, RemoteConfig(failures=1, probe_min_s=60, probe_max_s=60), metrics=metrics)
    cache.put("a", vector(1))
    await until(lambda: table.values)
    assert await cache.get("a", 8) is not None
    assert await cache.get("missing", 8) is None
    table.broken = True
    assert await cache.get("a", 8) is None
    assert await cache.get("a", 8) is None
    await cache.close()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    lookups = [
        value("maeve_cache_requests_total", tier="redis", outcome=each) for each in ("hit", "miss", "error", "bypass")
    ]
    assert lookups == [1, 1, 1, 1]
    assert value("maeve_redis_bytes_total", direction="written") == 36
    assert value("maeve_redis_bytes_total", direction="read") == 36
    assert value("maeve_redis_errors_total") == 1


async def test_reads_of_one_turn_travel_together() -> None:
    table = Table()
    async with remote(table) as cache:
        await asyncio.gather(*(cache.get(str(i), 8) for i in range(10)))
    assert table.reads == [[str(i) for i in range(10)]]


async def test_failures_open_the_circuit_and_no_request_asks_any_more() -> None:
    table = Table()
    table.broken = True
    slow_probe = RemoteConfig(failures=2, probe_min_s=60, probe_max_s=60)
    async with remote(table, slow_probe) as cache:
        for _ in range(5):
            assert await cache.get("a", 8) is None
        assert not cache.up
        assert len(table.reads) == 2
        cache.put("a", vector(1))
        await asyncio.sleep(0.01)
        assert table.writes == []


async def test_a_success_between_failures_keeps_the_circuit_closed() -> None:
    table = Table()
    async with remote(table) as cache:
        for _ in range(4):
            for table.broken in (True, False):
                await cache.get("a", 8)
        assert cache.up


async def test_the_probe_closes_the_circuit_when_the_remote_is_back() -> None:
    table = Table()
    table.broken = True
    async with remote(table) as cache:
        for _ in range(2):
            await cache.get("a", 8)
        await until(lambda: table.pings >= 3)
        assert not cache.up
        table.broken = False
        await until(lambda: cache.up)
        cache.put("a", vector(2))
        await until(lambda: table.values)
        assert await cache.get("a", 8) is not None


async def test_failed_writes_open_the_circuit_too() -> None:
    table = Table()
    table.broken = True
    async with remote(table, RemoteConfig(failures=1, probe_min_s=60, probe_max_s=60)) as cache:
        cache.put("a", vector(1))
        await until(lambda: not cache.up)


async def test_writes_that_pile_up_are_dropped() -> None:
    table = Table()
    async with remote(table) as cache:
        table.gate.clear()
        cache.put("first", vector(0))
        await until(lambda: table.writes)
        for i in range(10):
            cache.put(str(i), vector(i))
        table.gate.set()
        await until(lambda: len(table.values) >= 5)
        await asyncio.sleep(0.01)
    assert set(table.values) == {"first", "0", "1", "2", "3"}


async def test_large_writes_are_few_at_a_time_and_bounded_in_bytes() -> None:
    table = Table()
    large = vector(1, 100_000)  # 400 kB
    async with remote(table, RemoteConfig(max_waiting_bytes=2_100_000)) as cache:
        table.gate.clear()
        cache.put("first", large)
        await until(lambda: table.writes)
        for i in range(10):
            cache.put(str(i), large)
        cache.put("small", vector(1))
        table.gate.set()
        await until(lambda: len(table.values) >= 7)
        assert set(table.values) == {"first", "0", "1", "2", "3", "4", "small"}
        assert table.writes == [1, 2, 2, 2]
        table.gate.clear()
        for i in range(5):
            cache.put(f"more {i}", large)  # the room is free again
        table.gate.set()
        await until(lambda: len(table.values) == 12)


async def test_writes_that_take_too_long_cost_no_reads() -> None:
    table = Table()
    table.values["known"] = pack("known", vector(2))
    table.slow = True
    async with remote(table, RemoteConfig(failures=1)) as cache:
        for i in range(200):
            cache.put(str(i), vector(i))
        await until(lambda: sum(table.writes) == 200)  # each batch was tried
        assert cache.up
        assert await cache.get("known", 8) is not None


async def test_closing_ends_reads_that_hang_as_misses() -> None:
    table = Table()
    table.gate.clear()
    async with remote(table) as cache:
        reading = asyncio.create_task(cache.get("a", 8))
        await until(lambda: table.reads)
    assert await reading is None


def test_the_config_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="probe_min_s"):
        RemoteConfig(probe_min_s=2, probe_max_s=1)
    with pytest.raises(ValueError, match="at least 1"):
        RemoteConfig(failures=0)
