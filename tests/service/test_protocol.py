"""Strangers on real sockets: each gets an answer in the one shape or is shown the door, and holds nothing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bundle.store import Bundle
from runtime.fake import FakeRuntime
from service.app import create_app
from service.protocol import Limits, bounded_protocol
from service.settings import Settings
from tests.service.helpers import Served, eventually, photo, serving, serving_fake

LIMIT_S = 0.6


@pytest.fixture(scope="module")
def served(fake_bundle: Bundle) -> Iterator[Served]:
    with serving_fake(fake_bundle, io_timeout_s=LIMIT_S, max_body_bytes=200_000) as (served, _):
        yield served


@pytest.fixture(autouse=True)
def the_next_good_request_is_served(served: Served) -> Iterator[None]:
    yield
    answer = served.embed(photo(1))
    assert answer.status_code == 200


@contextmanager
def connected(served: Served, **options: int) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        for name, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", served.port))
        yield sock


def read_all(sock: socket.socket) -> bytes:
    """Until the server closes. A reset is an error: the client would lose what it was told."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def answers(raw: bytes) -> list[tuple[int, dict[str, str], Any]]:
    """(status, headers, JSON) of each answer."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        found.append((int(first.split()[1]), headers, json.loads(raw[:size])))
        raw = raw[size:]
    return found


def check_refusal(raw: bytes, status: int, kind: str) -> None:
    ((got, headers, body),) = answers(raw)
    assert (got, body["error"]["type"], body["error"]["code"]) == (status, kind, status), body
    assert body["error"].keys() == {"type", "message", "param", "code"}
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"


def request(
    path: str = "/livez", method: str = "GET", body: bytes = b"", headers: dict[str, str] | None = None, **more: str
) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in ((headers or {}) | more).items()]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: maeve", *lines, "", ""]).encode() + body


def test_headers_that_trickle_are_cut_off(served: Served) -> None:
    with connected(served) as sock:
        start = time.monotonic()
        sock.sendall(b"GET /livez HTTP/1.1\r\n")
        sock.settimeout(0.1)
        raw = b""
        for i in range(50):
            sock.sendall(b"x-%d: 1\r\n" % i)  # each byte in good time, their end never
            try:
                raw = sock.recv(65536)
                break
            except TimeoutError:
                continue
        assert LIMIT_S <= time.monotonic() - start < 5 * LIMIT_S
    check_refusal(raw, 408, "headers_timeout")


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "a newline"])
def test_a_connection_that_never_asks_is_closed(served: Served, sent: bytes) -> None:
    with connected(served) as sock:
        sock.sendall(sent)
        start = time.monotonic()
        assert sock.recv(1) == b""
        assert LIMIT_S - 0.1 <= time.monotonic() - start < 5 * LIMIT_S


def test_newlines_do_not_keep_a_used_connection_open(served: Served) -> None:
    with connected(served) as sock:
        sock.sendall(request())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        sock.sendall(b"\r\n")
        assert sock.recv(1) == b""
        assert time.monotonic() - start < 5 * LIMIT_S


def test_an_idle_connection_outlives_the_limit_between_requests(served: Served) -> None:
    with connected(served) as sock:
        for _ in range(2):
            sock.sendall(request())
            ((status, headers, _),) = answers(sock.recv(65536))
            assert (status, headers.get("connection")) == (200, None)
            time.sleep(LIMIT_S * 1.6)


def test_a_body_of_a_byte_a_second_ends_with_the_requests_time(served: Served) -> None:
    with connected(served) as sock:
        head = request("/embed", "POST", x_request_timeout_ms="700", content_length="100000")
        sock.sendall(head)
        sock.settimeout(0.1)
        start, raw = time.monotonic(), b""
        while not raw and time.monotonic() - start < 10:
            sock.sendall(b"x")
            try:
                raw = sock.recv(65536)
            except TimeoutError:
                continue
    check_refusal(raw, 504, "deadline_exceeded")


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_too_large_is_answered_before_it_is_read(served: Served, chunked: bool) -> None:
    """The client goes on sending for a while, as clients do, and still reads why it should not have."""
    sent = 0
    with connected(served) as sock:
        if chunked:
            sock.sendall(request("/embed", "POST", transfer_encoding="chunked"))
        else:
            sock.sendall(request("/embed", "POST", content_length=str(2**30)))
        part = bytes(65536)
        for _ in range(64):
            sock.sendall(b"10000\r\n" + part + b"\r\n" if chunked else part)
            sent += len(part)
        raw = read_all(sock)
    assert sent == 4 * 2**20
    check_refusal(raw, 413, "too_large")


def test_a_client_that_goes_on_sending_for_ever_is_cut_off(served: Served) -> None:
    with connected(served) as sock:
        sock.sendall(request("/embed", "POST", content_length=str(2**40)))
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            sock.sendall(bytes(2**28))


def test_a_slow_reader_of_a_large_answer_is_cut_off_and_its_memory_freed(served: Served) -> None:
    """The patches of 64 images, 30 times: more than the sockets hold."""
    part = b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n'
    body = b"".join(part + photo(i, height=8, width=8) + b"\r\n" for i in range(64)) + b"--b--\r\n"
    asked = request("/embed?pooling=patches", "POST", body, content_type="multipart/form-data; boundary=b")
    with connected(served, SO_RCVBUF=4096) as sock:
        sock.sendall(asked * 30)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert _connections(served)
        eventually(lambda: not _connections(served, sock.getsockname()[1]))
        with pytest.raises(ConnectionResetError):  # not even the kernel keeps the rest
            read_all(sock)


GARBAGE = {
    "noise": bytes(range(128, 256)) * 4,
    "a TLS client hello": bytes.fromhex("16030100c8010000c40303") + bytes(189),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method of ours": b"BREW /pot HTTP/1.1\r\n\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n",
    "no path": b"GET http: HTTP/1.1\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\ncontent-length : 5\r\n\r\n",
    "a NUL": b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
    "both lengths": b"POST /embed HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths turned": b"POST /embed HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /embed HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "two equal lengths": b"POST /embed HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "a list of lengths": b"POST /embed HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\nhello",
    "a negative length": b"POST /embed HTTP/1.1\r\ncontent-length: -5\r\n\r\nhello",
    "an endless length": b"POST /embed HTTP/1.1\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\nhello",
    "an unknown coding": b"POST /embed HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\nhello",
    "chunked, then another": b"POST /embed HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a bad chunk": b"POST /embed HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "a bad second chunk": b"POST /embed HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxx\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_request_gets_400_in_the_one_shape(served: Served, name: str) -> None:
    with connected(served) as sock:
        sock.sendall(GARBAGE[name])
        check_refusal(read_all(sock), 400, "malformed_request")


def test_garbage_after_a_request_does_not_take_its_answer(served: Served) -> None:
    with connected(served) as sock:
        sock.sendall(request("/embed", "POST", photo(2)) + b"\xff garbage \xff")
        ((status, headers, _),) = answers(read_all(sock))
    assert (status, headers["connection"]) == (200, "close")


LARGE_HEADS = {
    "a header of 100 kB": (request(x="y" * 100_000), 431, "headers_too_large"),
    "a header of 400 kB that never ends": (request(x="y" * 400_000)[:-4], 431, "headers_too_large"),
    "101 headers": (request(headers={f"x{i}": "y" for i in range(101)}), 431, "headers_too_large"),
    "a path of 9 kB": (request("/" + "x" * 9000), 414, "target_too_long"),
}


@pytest.mark.parametrize("name", LARGE_HEADS)
def test_too_large_a_head_is_refused(served: Served, name: str) -> None:
    sent, status, kind = LARGE_HEADS[name]
    with connected(served) as sock:
        sock.sendall(sent)
        check_refusal(read_all(sock), status, kind)


def test_as_large_a_head_as_may_be_is_served(served: Served) -> None:
    headers = {f"x{i}": "y" * 600 for i in range(90)}
    with connected(served) as sock:
        sock.sendall(request("/livez?" + "q" * 8000, headers=headers, connection="close"))
        ((status, _, _),) = answers(read_all(sock))
    assert status == 200


def test_a_large_body_does_not_count_as_the_next_requests_head(served: Served) -> None:
    """The end of one and the beginning of the other arrive in one piece."""
    sent = request("/embed", "POST", photo(1, "BMP", 250, 250)) + request("/livez", connection="close")
    with connected(served) as sock:
        sock.sendall(sent[:-10])
        time.sleep(0.1)
        sock.sendall(sent[-10:])
        assert [status for status, _, _ in answers(read_all(sock))] == [200, 200]


def test_a_flood_of_pipelined_requests_is_answered_in_part(served: Served) -> None:
    with connected(served) as sock:
        sock.sendall(request() * 500)
        got = answers(read_all(sock))
    assert {status for status, _, _ in got} == {200}
    assert len(got) < 100
    assert got[-1][1]["connection"] == "close"


def test_a_client_that_hangs_up_half_way_has_left(served: Served) -> None:
    """The end of what it sends counts as the end of its interest; nothing is kept for it."""
    connections = len(_connections(served))
    with connected(served) as sock:
        sock.sendall(request("/embed", "POST", content_length="1000") + b"half of it")
        eventually(lambda: len(_connections(served)) == connections + 1)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    eventually(lambda: len(_connections(served)) == connections)
    assert served.app.state.gate.in_flight == 0


def _connections(served: Served, port: int | None = None) -> list[str]:
    """The connections that the service holds, all or the one from `port`: those with an inode in /proc/net/tcp."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [row for row in rows if row[1].endswith(f":{served.port:04X}") and not row[2].endswith(":0000")]
    return [row[2] for row in ours if row[9] != "0" and (port is None or row[2].endswith(f":{port:04X}"))]


def test_300_idle_connections_do_not_keep_a_request_out(served: Served) -> None:
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(300)]
    try:
        assert served.embed(photo(3)).status_code == 200
    finally:
        for sock in idle:
            sock.close()


def test_connections_beyond_the_most_are_told_so(fake_bundle: Bundle) -> None:
    app = create_app(Settings(), bundle=fake_bundle, runtime=FakeRuntime(fake_bundle))
    few = bounded_protocol(Limits(io_timeout_s=20, connections=3))
    with serving(app, http=few) as served, ExitStack() as stack:
        held = [stack.enter_context(connected(served)) for _ in range(3)]
        eventually(lambda: len(_connections(served)) == 3)
        with connected(served) as sock:
            raw = read_all(sock)
            check_refusal(raw, 503, "unavailable")
            ((_, headers, body),) = answers(raw)
            assert (headers["retry-after"], body["error"]["message"][:23]) == ("1", "3 connections are open,")
        held[0].close()
        eventually(lambda: len(_connections(served)) == 2)
        assert served.embed(photo(1)).status_code == 200


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="limits must be positive, got 0 s and 5 connections"):
        Limits(io_timeout_s=0, connections=5)
