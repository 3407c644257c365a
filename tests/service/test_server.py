"""What a stop leaves to the clients that are there, on real sockets."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from bundle.store import Bundle
from runtime.fake import FakeRuntime
from service.app import create_app
from service.server import DrainingServer, make_server
from service.settings import Settings
from tests.service.helpers import eventually, listens, photo

SMALL = 4096  # bytes that a kernel should hold for a connection; it holds a little more


@contextmanager
def draining(bundle: Bundle, drain_s: float) -> Iterator[tuple[DrainingServer, int]]:
    """A server, to be told to stop by `handle_exit`, and its port."""
    settings = Settings(drain_s=drain_s)
    server = make_server(create_app(settings, bundle=bundle, runtime=FakeRuntime(bundle)), settings)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],), name="server")
        port: int = listener.getsockname()[1]
        thread.start()
        try:
            eventually(lambda: server.started)
            yield server, port
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop"


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        yield sock


def asking(num_images: int) -> bytes:
    """A request for the vectors of all patches, in JSON."""
    files = [("file", (f"{i}.png", photo(i), "image/png")) for i in range(num_images)]
    made = httpx.Request("POST", "http://maeve/embed?pooling=patches", files=files)
    body = made.read()
    lines = [f"{name}: {value}" for name, value in made.headers.items()]
    return "\r\n".join(["POST /embed?pooling=patches HTTP/1.1", *lines, "", ""]).encode() + body


def head_of(sock: socket.socket) -> tuple[bytes, bytes]:
    """An answer's head, and what came with it."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        part = sock.recv(256)
        assert part, "closed without an answer"
        raw += part
    head, _, rest = raw.partition(b"\r\n\r\n")
    return head, rest


def body_bytes(head: bytes) -> int:
    (line,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
    return int(line.removeprefix(b"content-length: "))


def test_a_slow_client_gets_all_of_its_answer(fake_bundle: Bundle) -> None:
    with draining(fake_bundle, drain_s=30) as (server, port), connected(port) as sock:
        sock.sendall(asking(64))
        head, rest = head_of(sock)
        server.handle_exit(signal.SIGTERM, None)
        start, received = time.monotonic(), len(rest)
        while part := sock.recv(4096):
            received += len(part)
            time.sleep(0.05 if time.monotonic() - start < 3.5 else 0)
        assert received == body_bytes(head)
        assert time.monotonic() - start > 3.5  # a quick one would have got it anyway


def test_a_client_that_takes_nothing_does_not_outlast_the_drain(fake_bundle: Bundle) -> None:
    with draining(fake_bundle, drain_s=0.5) as (server, port), connected(port) as sock:
        sock.sendall(asking(64))
        head_of(sock)
        server.handle_exit(signal.SIGTERM, None)
        eventually(lambda: not listens(port), 5)


@pytest.mark.parametrize("used", [True, False], ids=["a used connection", "a fresh one"])
def test_half_a_head_is_heard_out_while_it_drains(fake_bundle: Bundle, used: bool) -> None:
    with draining(fake_bundle, drain_s=30) as (server, port), connected(port) as sock, connected(port) as slow:
        if used:
            ask_whether_it_lives(sock)
        slow.sendall(asking(1)[:-100])  # keeps it from being over at once
        sock.sendall(b"POST /embed HTTP/1.1\r\nhost: ma")
        eventually(lambda: server._gate.in_flight)
        server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.3)
        sock.sendall(b"eve\r\ncontent-length: 0\r\n\r\n")
        assert head_of(sock)[0].startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("used", [True, False], ids=["a used connection", "a fresh one"])
def test_half_a_head_is_refused_at_the_end(fake_bundle: Bundle, used: bool) -> None:
    with draining(fake_bundle, drain_s=30) as (server, port), connected(port) as sock:
        if used:
            ask_whether_it_lives(sock)
        sock.sendall(b"GET /livez HTTP/1.1\r\nhost: ma")
        eventually(lambda: any(connection._begun for connection in server._connections()))
        server.handle_exit(signal.SIGTERM, None)
        assert head_of(sock)[0].startswith(b"HTTP/1.1 503 ")


def ask_whether_it_lives(sock: socket.socket) -> None:
    sock.sendall(b"GET /livez HTTP/1.1\r\nhost: maeve\r\n\r\n")
    head, rest = head_of(sock)
    while len(rest) < body_bytes(head):
        rest += sock.recv(256)
