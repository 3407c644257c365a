"""Redis behind the `Store` of `service.cache`; its errors, and its silence, become CacheError here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bundle.errors import CacheError

_MAX_CONNECTIONS = 8


class RedisStore:
    """Connects when first used. `timeout_s` bounds a whole call: a free connection, connecting, sending, the answer."""

    def __init__(self, url: str, *, timeout_s: float, ttl_s: int) -> None:
        self._timeout_s = timeout_s
        self._ttl_s = ttl_s
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=None,
            socket_timeout=None,
            socket_connect_timeout=None,
            # one more try, at once: after a restart of Redis every pooled connection is dead
            retry=Retry(NoBackoff(), 1),
        )
        self._redis = Redis(connection_pool=self._pool)

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        async with self._translated():
            return cast("list[bytes | None]", await self._redis.mget(keys))

    async def write(self, items: Sequence[tuple[str, bytes]]) -> None:
        async with self._translated(), self._redis.pipeline(transaction=False) as pipe:
            for key, value in items:
                pipe.set(key, value, ex=self._ttl_s)
            await pipe.execute()

    async def ping(self) -> None:
        async with self._translated():
            await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()
        await self._pool.aclose()

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as e:
            raise CacheError(f"Redis did not answer within {self._timeout_s * 1000:.0f} ms") from e
        except (RedisError, OSError) as e:
            raise CacheError(f"Redis: {e}") from e
