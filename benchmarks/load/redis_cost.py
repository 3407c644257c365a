"""What a Redis spends on a vector: seconds of its own, one core for each that is read and each that is written."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

_START_S = 10.0
_TOGETHER = 8  # vectors in a call, as the service's reads of one turn of its event loop travel together
_KEYS = 10_000
_KEY_BYTES, _CHECKSUM_BYTES = 96, 8  # about what the service's are


@dataclass(frozen=True)
class RedisCost:
    """Seconds of a core for a vector, and the bytes of one with its key on the wire."""

    read_s: float
    write_s: float
    value_bytes: int


def redis_cost(dim: int, seconds: float) -> RedisCost | None:
    """Of vectors of `dim` float32. By Redis' own account of its time, so that the client's is no part of it. None where
    there is no redis-server.
    """
    value = bytes(4 * dim + _CHECKSUM_BYTES)
    keys = [f"{i:0{_KEY_BYTES}d}" for i in range(_KEYS)]
    with _server() as redis:
        if redis is None:
            return None

        def write(names: list[str]) -> None:
            pipe = redis.pipeline(transaction=False)
            for name in names:
                pipe.set(name, value, ex=3600)
            pipe.execute()

        write_s = _per_vector(redis, write, keys, seconds / 2)
        read_s = _per_vector(redis, lambda names: redis.mget(names), keys, seconds / 2)
    return RedisCost(read_s, write_s, len(value) + _KEY_BYTES)


def _per_vector(redis: Redis, call: Callable[[list[str]], object], keys: list[str], seconds: float) -> float:
    """Every key at least once."""
    count, spent, until = 0, _cpu_s(redis), time.perf_counter() + seconds
    while count < len(keys) or time.perf_counter() < until:
        start = count % len(keys)
        call(keys[start : start + _TOGETHER])
        count += _TOGETHER
    return (_cpu_s(redis) - spent) / count


def _cpu_s(redis: Redis) -> float:
    told = redis.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


@contextmanager
def _server() -> Iterator[Redis | None]:
    binary = shutil.which("redis-server") or str(Path(sys.executable).with_name("redis-server"))
    if not Path(binary).exists():
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="maeve-redis-") as folder:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        redis = Redis(port=port)
        try:
            _wait(redis)
            yield redis
        finally:
            redis.close()
            process.terminate()
            process.wait(10)


def _wait(redis: Redis) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            redis.ping()
            return
        except NotThere:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
