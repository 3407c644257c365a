"""Results by key: first in this process, then in Redis. Values are float32 vectors; the loss of a cache costs speed,
never a request.

A key stands for everything that affects the value, so a value never has to be taken back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import zlib
from collections import OrderedDict, deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bundle.errors import CacheError
from service.metrics import Metrics

log = logging.getLogger(__name__)

Vector = NDArray[np.float32]

_WIRE = np.dtype("<f4")
_CHECKSUM_BYTES = 4
_LAYOUT = "2"  # goes up when values are laid out or computed in another way
_ENTRY_OVERHEAD_BYTES = 400  # key, array header and the table's slot, as measured with tracemalloc
_BATCH = 64  # values written in one call
_BATCH_BYTES = 2**20  # some milliseconds on a fast network
_MAX_SHARE = 8  # no single value may take more than this fraction of the in-process cache


@dataclass(frozen=True)
class CachePolicy:
    """What a request lets the caches do: `read` what is known, a flight of another request too; `write` what comes out.

    Compared by identity on the way of a request, so take the constants below, or `of`.
    """

    read: bool
    write: bool

    @staticmethod
    @lru_cache(maxsize=64)
    def of(cache_control: str | None) -> CachePolicy:
        """From a Cache-Control header (RFC 9111, section 5.2.1): `no-store` is neither, `no-cache` and `max-age=0` are
        to write alone; what else it says makes no difference here, where nothing ever gets old.
        """
        directives = {part.strip().lower() for part in (cache_control or "").split(",")}
        if "no-store" in directives:
            return NO_STORE
        return NO_READ if directives & {"no-cache", "max-age=0"} else USE


USE = CachePolicy(read=True, write=True)
NO_READ = CachePolicy(read=False, write=True)
NO_STORE = CachePolicy(read=False, write=False)


def context_key(*parts: str) -> str:
    """What all images of one operation have in common: bundle, runtime, precision, operation, parameters.

    Parts are joined by a character that occurs in none of them, so that no two lists of parts give one key.
    """
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"{_LAYOUT}:{digest[:32]}"


def image_key(context: str, data: bytes) -> str:
    """The key of one image's result: `context` and the sha256 of the encoded bytes."""
    return digest_key(context, hashlib.sha256(data).hexdigest())


def digest_key(context: str, digest: str) -> str:
    """The same of bytes whose sha256, in hexadecimal, is known."""
    return f"{context}:{digest}"


class MemoryCache:
    """Least recently used out first, bounded in bytes. Used from the event loop's thread alone."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[str, Vector] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Vector | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: str, value: Vector) -> None:
        """Keep `value`, which must not change any more, unless it alone would push out a good part of the rest."""
        size = _size(value)
        if size * _MAX_SHARE > self.max_bytes:
            return
        before = self._entries.pop(key, None)
        if before is not None:
            self.num_bytes -= _size(before)
        self._entries[key] = value
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.num_bytes -= _size(oldest)


def _size(value: Vector) -> int:
    return value.nbytes + _ENTRY_OVERHEAD_BYTES


def pack(key: str, value: Vector) -> bytes:
    """Little-endian float32, then the CRC-32 of them and of the key, which `unpack` holds them against."""
    raw = value.astype(_WIRE, copy=False).tobytes()
    return raw + _checksum(key, raw)


def unpack(key: str, raw: bytes, num_values: int) -> Vector | None:
    """None for what `pack` did not make of `num_values` finite values under this key."""
    if len(raw) != num_values * _WIRE.itemsize + _CHECKSUM_BYTES:
        return None
    if raw[-_CHECKSUM_BYTES:] != _checksum(key, memoryview(raw)[:-_CHECKSUM_BYTES]):
        return None
    value = np.frombuffer(raw, _WIRE, num_values)
    return value if np.isfinite(value).all() else None


def _checksum(key: str, raw: bytes | memoryview) -> bytes:
    return zlib.crc32(raw, zlib.crc32(key.encode())).to_bytes(_CHECKSUM_BYTES, "little")


class CacheRefused(CacheError):
    """The store is there and takes no writes: it is full, a replica, or does not let us."""


class CacheTimeout(CacheError):
    """The store did not answer in time."""


class Store(Protocol):
    """A remote table of bytes. Every method raises CacheError when the store does not answer, and CacheTimeout once its
    own time limit is over.
    """

    async def read(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def write(self, items: Sequence[tuple[str, bytes]]) -> None:
        """CacheRefused where it answers, and not with yes."""
        ...

    async def ping(self) -> None:
        """Whether `read` would be answered."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """`failures`: in a row, until the remote is left alone. Then a probe asks after `probe_min_s`, and each time twice
    as late up to `probe_max_s`, times a random factor from 0.5 to 1.5 so that many services do not ask at once.

    `refused_s`: how long nothing is written after a write was refused.
    """

    failures: int = 3
    probe_min_s: float = 0.5
    probe_max_s: float = 15.0
    refused_s: float = 5.0
    max_waiting: int = 1024  # results waiting to be written; what comes on top is not written
    max_waiting_bytes: int = 64 * 2**20
    max_value_bytes: int = 4 * 2**20

    def __post_init__(self) -> None:
        if not 0 < self.probe_min_s <= self.probe_max_s:
            raise ValueError(f"probe_min_s must lie in (0, probe_max_s], got {self.probe_min_s}, {self.probe_max_s}")
        if self.failures < 1 or self.max_waiting < 1:
            raise ValueError("failures and max_waiting must be at least 1")


class _Writes:
    """What waits to be written, bounded in number and bytes, and leaves in batches that a time limit suits."""

    def __init__(self, config: RemoteConfig) -> None:
        self._config = config
        self._items: deque[tuple[str, bytes]] = deque()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def have_room(self, num_bytes: int) -> bool:
        """For one more value."""
        config = self._config
        fits = num_bytes <= config.max_value_bytes and self._num_bytes + num_bytes <= config.max_waiting_bytes
        return fits and len(self._items) < config.max_waiting

    def add(self, key: str, raw: bytes) -> None:
        self._items.append((key, raw))
        self._num_bytes += len(raw)

    def take(self) -> list[tuple[str, bytes]]:
        """The oldest, at least one."""
        batch = [self._items.popleft()]
        num_bytes = len(batch[0][1])
        while self._items and len(batch) < _BATCH and num_bytes + len(self._items[0][1]) <= _BATCH_BYTES:
            batch.append(self._items.popleft())
            num_bytes += len(batch[-1][1])
        self._num_bytes -= num_bytes
        return batch

    def clear(self) -> None:
        self._items.clear()
        self._num_bytes = 0


class RemoteCache:
    """A store that may be down at the start, die and come back.

    Reads of one turn of the event loop travel together. Writes wait for nobody. After a few failures in a row the store
    is left alone (the circuit is open) and only a background probe asks for it, so no request pays for its absence. A
    store that takes no writes, or takes long for them, is still read.
    """

    def __init__(self, store: Store, config: RemoteConfig | None = None, *, metrics: Metrics | None = None) -> None:
        self._store = store
        self._config = config or RemoteConfig()
        self._metrics = metrics or Metrics()
        self._failures = 0
        self._refused_until = 0.0  # in the loop's time
        self._reads: list[tuple[str, asyncio.Future[bytes | CacheError | None]]] = []
        self._writes = _Writes(self._config)
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """False while the circuit is open."""
        return self._probe is None

    async def get(self, key: str, num_values: int) -> Vector | None:
        """The value, or None: unknown, not what `put` wrote, or no answer in time."""
        if not self.up:
            self._metrics.cache("redis", "bypass")
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes | CacheError | None] = loop.create_future()
        self._reads.append((key, future))
        if len(self._reads) == 1:
            loop.call_soon(lambda: self._spawn(self._read()))
        found = await future
        if isinstance(found, CacheError):
            self._metrics.cache("redis", "error")
            return None
        value = None if found is None else unpack(key, found, num_values)
        self._metrics.cache("redis", "miss" if value is None else "hit")
        return value

    def put(self, key: str, value: Vector) -> None:
        """Write when convenient. Dropped while the store is down, far behind or takes no writes."""
        if not self.up or not self._writes.have_room(value.nbytes):
            return
        if asyncio.get_running_loop().time() < self._refused_until:
            return
        self._writes.add(key, pack(key, value))
        if self._writer is None:
            self._writer = self._spawn(self._write())

    async def close(self) -> None:
        for task in (self._probe, *self._tasks):
            if task is not None:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self) -> None:
        reads, self._reads = self._reads, []
        values: Sequence[bytes | CacheError | None] = [None] * len(reads)
        try:
            values = found = await self._store.read([key for key, _ in reads])
            self._metrics.redis_bytes("read", sum(len(value) for value in found if value is not None))
            self._succeeded()
        except CacheError as e:
            values = [e] * len(reads)
            self._failed(e)
        finally:
            for (_, future), value in zip(reads, values, strict=True):
                if not future.done():
                    future.set_result(value)

    async def _write(self) -> None:
        try:
            while self._writes and self.up:
                await self._write_batch(self._writes.take())
        finally:
            self._writer = None

    async def _write_batch(self, batch: Sequence[tuple[str, bytes]]) -> None:
        try:
            await self._store.write(batch)
        except CacheRefused as e:
            self._refused(e)
        except CacheTimeout:  # it may have been large; whether the store is gone, reads will tell
            self._metrics.remote_errors.inc()
        except CacheError as e:
            self._failed(e)
        else:
            self._metrics.redis_bytes("written", sum(len(value) for _, value in batch))
            self._succeeded()

    def _succeeded(self) -> None:
        self._failures = 0

    def _failed(self, error: CacheError) -> None:
        self._metrics.remote_errors.inc()
        self._failures += 1
        if self._failures >= self._config.failures and self._probe is None:
            log.warning("the remote cache is left alone until it answers again: %s", error)
            self._writes.clear()
            self._probe = self._spawn(self._ask_until_up())

    def _refused(self, error: CacheRefused) -> None:
        self._metrics.remote_errors.inc()
        self._writes.clear()
        if not self._refused_until:
            log.warning("read from, and written to again when it takes it: %s", error)
        self._refused_until = asyncio.get_running_loop().time() + self._config.refused_s

    async def _ask_until_up(self) -> None:
        delay_s = self._config.probe_min_s
        while True:
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            try:
                await self._store.ping()
            except CacheError:
                delay_s = min(2 * delay_s, self._config.probe_max_s)
                continue
            log.info("the remote cache answers again")
            self._failures = 0
            self._probe = None
            return
