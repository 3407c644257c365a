"""A real Redis in every form that a URL can name, and every way in which it can say no."""

from __future__ import annotations

import asyncio
import gc
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from redis import Redis

from bundle.errors import CacheError
from service.cache import CacheRefused, RemoteCache, RemoteConfig
from service.redis_store import RedisStore
from service.redis_url import parse_redis_url
from service.settings import SettingsError, read_settings
from tests.service.helpers import RedisServer, eventually, free_port, listens

CERTIFICATE = Path(__file__).parent / "tls" / "redis.pem"
ITEMS = [(f"key{i}", bytes([i]) * 5) for i in range(20)]  # on a cluster, in as many slots


def store(url: str, *, timeout_s: float = 0.5, prefix: str = "test") -> RedisStore:
    return RedisStore(url, timeout_s=timeout_s, ttl_s=100, prefix=prefix)


async def holds_items(url: str) -> None:
    table = store(url, timeout_s=5)
    await table.write(ITEMS)
    keys = [key for key, _ in ITEMS]
    assert await table.read(["missing", *keys]) == [None, *(value for _, value in ITEMS)]
    await table.ping()
    await table.close()


# Forms


async def test_prefixes_keep_services_apart(redis: RedisServer) -> None:
    redis.start()
    one, other = store(redis.url, prefix="one"), store(redis.url, prefix="other")
    await one.write([("a", b"1")])
    assert await other.read(["a"]) == [None]
    assert await one.read(["a"]) == [b"1"]
    with Redis(port=redis.port) as connection:
        assert connection.keys() == [b"one:a"]
    await one.close()
    await other.close()


async def test_a_unix_socket(redis: RedisServer, tmp_path: Path) -> None:
    redis.start("--unixsocket", str(tmp_path / "redis.sock"))
    await holds_items(f"unix://{tmp_path / 'redis.sock'}")


async def test_a_cluster(redis: RedisServer) -> None:
    start_cluster(redis)
    await holds_items(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{redis.port}")  # the first is not there


async def test_the_master_that_a_sentinel_names(redis: RedisServer, tmp_path: Path) -> None:
    redis.start()
    with sentinel(redis, tmp_path) as port:
        await holds_items(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main")
        table = store(f"redis+sentinel://127.0.0.1:{port}/other", timeout_s=5)
        with pytest.raises(CacheError, match="No master found for 'other'"):
            await table.read(["a"])
        await table.close()


async def test_tls_with_a_certificate_that_is_checked(redis: RedisServer) -> None:
    redis.start()
    with tls_in_front(redis.port) as port:
        await holds_items(f"rediss://localhost:{port}/0?ssl_ca_certs={CERTIFICATE}")
        for url, why in (
            (f"rediss://localhost:{port}", "CERTIFICATE_VERIFY_FAILED"),
            (f"rediss://127.0.0.1:{port}?ssl_ca_certs={CERTIFICATE}", "not valid for '127.0.0.1'"),
        ):
            table = store(url, timeout_s=5)
            with pytest.raises(CacheError, match=why):
                await table.read(["a"])
            await table.close()


async def test_one_that_hangs_leaves_no_stale_answer_on_a_cluster(redis: RedisServer) -> None:
    start_cluster(redis)
    table = store(f"redis+cluster://127.0.0.1:{redis.port}", timeout_s=0.3)
    await table.write([("a", b"first"), ("b", b"second")])
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    start = time.perf_counter()
    with pytest.raises(CacheError, match="did not answer within 300 ms"):
        await table.read(["a"])
    assert time.perf_counter() - start < 2
    redis.process.send_signal(signal.SIGCONT)
    assert await table.read(["b"]) == [b"second"]
    await table.close()


# Refusals and other calamities


async def test_a_password_that_is_missing_or_wrong_is_a_cache_error(redis: RedisServer) -> None:
    redis.start("--requirepass", "hush")
    for secret in ("", ":push@"):
        table = store(redis.url.replace("//", f"//{secret}"))
        with pytest.raises(CacheError, match="Redis: "):
            await table.ping()
        await table.close()
    await holds_items(redis.url.replace("//", "//:hush@"))


async def test_a_full_one_is_read_and_not_written_to(redis: RedisServer) -> None:
    redis.start()
    table = store(redis.url)
    await table.write([("old", b"1")])
    with Redis(port=redis.port) as connection:
        connection.config_set("maxmemory", "1")
    with pytest.raises(CacheRefused, match=r"(?i)oom|maxmemory"):
        await table.write([("new", b"2")])
    assert await table.read(["old", "new"]) == [b"1", None]
    await table.close()


async def test_a_replica_is_read_and_not_written_to(redis: RedisServer, tmp_path: Path) -> None:
    redis.start()
    (tmp_path / "replica").mkdir()
    replica = RedisServer(tmp_path / "replica")
    try:
        replica.start("--replicaof", "127.0.0.1", str(redis.port))
        await holds_items(redis.url)
        table = store(replica.url)
        with Redis(port=replica.port) as connection:
            await asyncio.to_thread(eventually, lambda: connection.exists("test:key1"))
        assert await table.read(["key1"]) == [bytes([1]) * 5]
        with pytest.raises(CacheRefused, match=r"(?i)read.?only"):
            await table.write([("new", b"2")])
        await table.close()
    finally:
        replica.kill()


async def test_a_refusal_costs_writes_alone(redis: RedisServer) -> None:
    """Not a failure that would have the cache left alone."""
    redis.start()
    table = store(redis.url)
    cache = RemoteCache(table, RemoteConfig(failures=1))
    value = np.arange(4, dtype=np.float32)
    cache.put("old", value)
    with Redis(port=redis.port) as connection:
        await asyncio.to_thread(eventually, lambda: connection.exists("test:old"))
        connection.config_set("maxmemory", "1")
        cache.put("new", value)
        await asyncio.to_thread(eventually, lambda: cache._refused_until)
    found = await cache.get("old", 4)
    assert found is not None
    assert found.tolist() == value.tolist()
    assert cache.up
    await cache.close()


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\x00\xff", b"", b"*9\r\n"])
async def test_something_else_on_the_port_is_a_cache_error(greeting: bytes) -> None:
    with answering(greeting) as port:
        table = store(f"redis://127.0.0.1:{port}")
        start = time.perf_counter()
        for call in (lambda: table.read(["a"]), lambda: table.write([("a", b"1")]), table.ping):
            with pytest.raises(CacheError):
                await call()
        assert time.perf_counter() - start < 3 * 0.5 + 1
        await table.close()


async def test_one_killed_in_the_middle_of_a_pipeline_is_a_cache_error(redis: RedisServer) -> None:
    redis.start()
    table = store(redis.url, timeout_s=5)
    await table.ping()
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    writing = asyncio.create_task(table.write([(str(i), b"x" * 100_000) for i in range(64)]))
    await asyncio.sleep(0.1)
    assert not writing.done()
    redis.kill()
    with pytest.raises(CacheError):
        await asyncio.wait_for(writing, 4)
    await table.close()


def test_a_name_that_cannot_be_found_leaves_no_complaint_in_the_loop() -> None:
    complaints: list[Any] = []

    async def look() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        for url in ("redis://gone.invalid", "redis+cluster://gone.invalid", "redis+sentinel://gone.invalid/main"):
            for timeout_s in (0.0001, 5):
                table = store(url, timeout_s=timeout_s)
                with pytest.raises(CacheError):
                    await table.read(["a"])
                await table.close()
        gc.collect()
        await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(look())
    gc.collect()
    assert complaints == []


# URLs


def test_urls_are_taken_apart() -> None:
    address = parse_redis_url("rediss+sentinel://me:p%40ss@a,b:1/main/3?sentinel_password=s&ssl_cert_reqs=none")
    assert (address.kind, address.tls, address.master) == ("sentinel", True, "main")
    assert address.nodes == (("a", 26379), ("b", 1))
    assert address.options == {"username": "me", "password": "p@ss", "db": 3, "ssl_cert_reqs": "none"}
    assert address.sentinel_options == {"password": "s"}
    assert parse_redis_url("redis+cluster://[::1]:7000,host").nodes == (("::1", 7000), ("host", 6379))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host", "must begin with one of redis://"),
        ("redis://host/zero", "'/zero' is no number"),
        ("redis://host:port", "Port could not be cast"),
        ("redis://host?socket_timeout=9", "unknown option 'socket_timeout'; there are"),
        ("redis://host?ssl_ca_certs=/a.pem", "'ssl_ca_certs'; it needs rediss://"),
        ("redis+sentinel://host", "needs the name of the master"),
        ("redis+sentinel://host,/main", "a host is missing"),
        ("redis+cluster://host/1", "the database 0 alone"),
    ],
)
def test_a_url_that_says_nothing_of_use_is_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match="--redis-url: .*" + message.replace("?", r"\?")):
        read_settings(["--redis-url", url])


# Helpers


def start_cluster(redis: RedisServer) -> None:
    """Of one node that has all slots."""
    redis.start("--cluster-enabled", "yes")
    with Redis(port=redis.port) as connection:
        connection.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        eventually(lambda: b"cluster_state:ok" in connection.execute_command("CLUSTER", "INFO"))


@contextmanager
def sentinel(redis: RedisServer, folder: Path) -> Iterator[int]:
    """A Sentinel that knows the server as `main`."""
    port, config = free_port(), folder / "sentinel.conf"
    config.write_text(f"bind 127.0.0.1\nport {port}\nsentinel monitor main 127.0.0.1 {redis.port} 1\ndir {folder}\n")
    binary = shutil.which("redis-server") or str(Path(sys.executable).with_name("redis-server"))
    command = [binary, str(config), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: listens(port))
        yield port
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port, each connection to which is served on a thread."""
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

        threads.append(threading.Thread(target=accept))
        threads[0].start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)


def answering(greeting: bytes) -> Any:
    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            connection.recv(2**16)
            connection.sendall(greeting)

    return listening(serve)


def tls_in_front(port: int) -> Any:
    """TLS as `localhost` before a server that has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, CERTIFICATE.with_suffix(".key"))

    def serve(connection: socket.socket) -> None:
        with connection, socket.create_connection(("127.0.0.1", port)) as plain:
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    back = threading.Thread(target=copy, args=(plain, secure))
                    back.start()
                    copy(secure, plain)
                    back.join(10)
            except OSError:  # a client that does not trust us
                return

    return listening(serve)


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(2**16):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other direction has ended
        return
