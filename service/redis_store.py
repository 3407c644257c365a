"""Redis behind the `Store` of `service.cache`; its errors, and its silence, become CacheError here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from bundle.errors import CacheError
from service.cache import CacheRefused, CacheTimeout
from service.redis_clients import connect
from service.redis_url import parse_redis_url

_MAX_CALLS = 8  # at once, and so connections to each server


class RedisStore:
    """Connects when first used. `timeout_s` bounds a whole call: a free place, connecting, sending, the answer.

    `prefix`: what every key begins with, before a colon. ValueError for a URL that `parse_redis_url` refuses.
    """

    def __init__(self, url: str, *, timeout_s: float, ttl_s: int, prefix: str) -> None:
        self._timeout_s = timeout_s
        self._ttl_s = ttl_s
        self._prefix = f"{prefix}:"
        self._calls = asyncio.Semaphore(_MAX_CALLS)
        self._client, self._sentinel = connect(parse_redis_url(url))

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        names = [self._prefix + key for key in keys]
        async with self._call():
            if isinstance(self._client, RedisCluster):
                found = await self._client.mget_nonatomic(names)  # an MGET per slot, a round trip per node
            else:
                found = await self._client.mget(names)
        return cast("list[bytes | None]", found)

    async def write(self, items: Sequence[tuple[str, bytes]]) -> None:
        try:
            async with self._call():
                pipe = self._pipeline()
                for key, value in items:
                    pipe.set(self._prefix + key, value, ex=self._ttl_s)
                await pipe.execute()
        except CacheError as e:
            if isinstance(e.__cause__, ResponseError):
                raise CacheRefused(str(e)) from e.__cause__
            raise

    async def ping(self) -> None:
        """Read a key that nobody writes: PING is answered also by servers that would not let us read."""
        await self.read(["ping"])

    async def close(self) -> None:
        await self._client.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    def _pipeline(self) -> Any:
        if isinstance(self._client, Redis):
            return self._client.pipeline(transaction=False)
        return self._client.pipeline()

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s), self._calls:
                yield
        except TimeoutError as e:
            raise CacheTimeout(f"Redis did not answer within {self._timeout_s * 1000:.0f} ms") from e
        except Exception as e:  # whatever listens there, and whatever the client makes of it
            raise CacheError(f"Redis: {e}") from e
