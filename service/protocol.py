"""HTTP/1.1 from strangers: uvicorn's protocol, with bounds on what a connection may send, hold and take its time for.

What a request costs more than with uvicorn's own is a few attributes; the clock is one timer per connection.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from bundle.errors import MaeveError, Unavailable
from service.errors import HeadersTimeout, HeadersTooLarge, MalformedRequest, TargetTooLong, error_response
from service.settings import Settings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_HEADER_BYTES = 64 * 2**10
_NUM_HEADERS = 100
_TARGET_BYTES = 8 * 2**10
_NUM_PIPELINED = 32  # requests of one connection that wait for the answers to earlier ones
_PART_BYTES = 64 * 2**10  # of a waiting answer, to be taken within the time limit
_LINGER_S = 2.0  # for a client that still sends to read why it should not
_LINGER_BYTES = 16 * 2**20  # more than the sockets on the way hold
_CONNECTIONS = 8192
_OTHER_FILES = 256  # descriptors kept for everything else: threads, Redis, the runtime
_LOOKS = 4  # at a connection, per time limit


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of each connection, and how many there may be in this process."""

    io_timeout_s: float
    connections: int

    def __post_init__(self) -> None:
        if not self.io_timeout_s > 0 or self.connections < 1:
            raise ValueError(f"limits must be positive, got {self.io_timeout_s} s and {self.connections} connections")


def server_options(settings: Settings) -> dict[str, Any]:
    """What uvicorn.Config must be given wherever the service listens."""
    limits = Limits(io_timeout_s=settings.io_timeout_s, connections=_most_connections())
    return {
        "http": bounded_protocol(limits),
        "ws": "none",
        "headers": [("x-content-type-options", "nosniff")],
        "server_header": False,
        "proxy_headers": False,  # nobody asks who the client is
        "timeout_keep_alive": settings.keep_alive_s,
    }


def bounded_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """A class, because uvicorn makes the instances."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})


def _most_connections() -> int:
    """Fewer than there are file descriptors: a server without one can neither accept nor explain."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(_CONNECTIONS, soft - _OTHER_FILES))


class BoundedProtocol(HttpToolsProtocol):
    """One connection; `bounded_protocol` says within which limits.

    A request is awaited (`_awaited_since`) from the connection's first moment, or its own first byte, to the end of its
    headers; between two requests uvicorn's keep-alive timer counts. While the rest of a body is outstanding (`_unread`)
    an answer ends the connection: the client might go on sending for ever.
    """

    limits: ClassVar[Limits]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._awaited_since: float | None = self.loop.time()
        self._begun = False  # whether a byte of the awaited request has come
        self._chunk = 0  # bytes in the piece being parsed
        self._first_chunk = 0  # bytes in the piece that the awaited request began in
        self._received = 0  # bytes of the awaited request in later pieces
        self._answering: RequestResponseCycle | None = None
        self._unread = False
        self._keeps_alive = False  # whether the connection may stay once the body has been read
        self._refusal: MaeveError | None = None  # what a callback of the parser found
        self._deaf = False  # whether what arrives is no longer read as HTTP
        self._discardable = _LINGER_BYTES
        self._owed = 0  # bytes of answers not taken, when the client last took enough
        self._owed_since = self._awaited_since
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unsent(self) -> int:
        """Bytes of answers that the kernel has not taken yet, because the client has not."""
        return self._exit.waiting + self._raw.get_write_buffer_size()

    @property
    def idle(self) -> bool:
        """Whether it waits for a next request: the ones before were answered, and nothing of it has come."""
        return self.cycle is not None and self.cycle.response_complete and not self._begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._raw = transport
        self._exit = _Exit(transport, self._close, self.loop)
        super().connection_made(cast("asyncio.Transport", self._exit))
        self._timer = self.loop.call_later(self.limits.io_timeout_s / _LOOKS, self._look)
        most = self.limits.connections
        if len(self.connections) > most + max(8, most // 16):
            self._abort()
        elif len(self.connections) > most:
            self._refuse(Unavailable(f"{most} connections are open, the most that are served at once"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._unread = self._deaf = False  # nothing to linger for
        if self._answering is not None:
            _leave(self._answering)  # uvicorn knows of the newest request alone
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        self._chunk = len(data)
        if self._begun:
            self._received += len(data)
        elif self._awaited_since is None and not self._unread:  # bytes that begin no request count too: newlines
            self._awaited_since = self.loop.time()
        super().data_received(data)
        if self._begun and self._received > _HEADER_BYTES and not self._deaf:
            self._fail(_headers_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun, self._first_chunk, self._received = True, self._chunk, 0
        if self._awaited_since is None:
            self._awaited_since = self.loop.time()

    def on_headers_complete(self) -> None:
        self._begun, self._awaited_since = False, None
        self._check_head()
        super().on_headers_complete()
        self._unread, self._keeps_alive, self.cycle.keep_alive = True, self.cycle.keep_alive, False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._unread = False
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps_alive

    def shutdown(self) -> None:
        """Called by uvicorn when it ends, and before that for idle connections."""
        self._keeps_alive = False
        if self._begun and not self._deaf and (self.cycle is None or self.cycle.response_complete):
            self._refuse(Unavailable("the service stopped before this request had come"))
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn when the parser, or a callback of it, refused what it was fed."""
        del msg
        self._fail(
            self._refusal
            or MalformedRequest(
                "this is no HTTP/1.1 request, or one that could be read in two ways; an address is "
                "ASCII, with all else as %XX"
            )
        )

    def _check_head(self) -> None:
        if len(self.url) > _TARGET_BYTES:
            self._refusal = TargetTooLong(f"the path and query have more than {_TARGET_BYTES} bytes")
        elif len(self.headers) > _NUM_HEADERS or self._head_is_large():
            self._refusal = _headers_too_large()
        elif len(self.pipeline) >= _NUM_PIPELINED:
            self._refusal = MalformedRequest(f"more than {_NUM_PIPELINED} requests sent before the first was answered")
        if self._refusal is not None:
            raise self._refusal

    def _head_is_large(self) -> bool:
        """Counted only where it may be: most requests are smaller than that as a whole."""
        if self._first_chunk + self._received <= _HEADER_BYTES:
            return False
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > _HEADER_BYTES

    def _fail(self, error: MaeveError) -> None:
        """The connection cannot be read any further. What was asked before is still answered."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse(error)
        elif not self._unread:
            cycle.keep_alive, self._deaf = False, True
        elif self.pipeline or cycle.response_started:
            self._abort()
        else:
            _leave(cycle)
            self._refuse(error)  # in the place of this request's own answer

    def _refuse(self, error: MaeveError) -> None:
        response = error_response(error)
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self._exit.flush()  # what was answered before comes first
        self._raw.write(b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", response.body]))
        self._linger()

    def _close(self) -> None:
        """In place of the transport's own `close`, which resets the connection if more bytes arrive; the client might
        lose the answer.
        """
        if self._unread or self._deaf:
            self._linger()
        else:
            self._raw.close()

    def _linger(self) -> None:
        """Say that no more will come, and wait a little until the client has found out."""
        if self._exit.is_closing():
            return
        self._deaf = self._exit.lingers = True
        self.flow.resume_reading()
        if self._raw.can_write_eof():
            self._raw.write_eof()
        self.loop.call_later(_LINGER_S, self._raw.close)

    def _abort(self) -> None:
        """Closed at once, what the client has not taken thrown away, in the kernel's memory too."""
        sock = self._raw.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._raw.abort()

    def _discard(self, num_bytes: int) -> None:
        self._discardable -= num_bytes
        if self._discardable < 0:
            self._abort()

    def _look(self) -> None:
        """At what the client owes: headers, and to take its answers."""
        now, limit_s = self.loop.time(), self.limits.io_timeout_s
        self._timer = self.loop.call_later(limit_s / _LOOKS, self._look)
        if not self._takes(now):
            self._abort()
        elif self._awaited_since is None or self._deaf or now - self._awaited_since < limit_s:
            return
        elif self._begun:
            self._fail(HeadersTimeout(f"the headers did not arrive within {limit_s:g} s"))
        elif self.cycle is None or self.cycle.response_complete:
            self._raw.close()
        else:  # newlines after a request that is still being worked on
            self._awaited_since = None

    def _takes(self, now: float) -> bool:
        """Whether the client has taken the next part of its answers, or may still take its time."""
        owed = self._raw.get_write_buffer_size()
        if owed == 0 or owed > self._owed or self._owed - owed >= _PART_BYTES:
            self._owed, self._owed_since = owed, now
        return now - self._owed_since < self.limits.io_timeout_s


def _leave(cycle: RequestResponseCycle) -> None:
    """Tell the handler that nobody would read its answer."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"more than {_NUM_HEADERS} headers, or more than {_HEADER_BYTES} bytes of them")


class _Exit:
    """The transport as uvicorn sees it. What is written in one turn of the loop, the head and the body of an answer,
    leaves in one call of the kernel, which is what sending costs. Closing is the protocol's to carry out; `lingers`: it
    has begun to.
    """

    def __init__(
        self, transport: asyncio.Transport, close: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.lingers = False
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._close = close
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    @property
    def waiting(self) -> int:
        """Bytes written in this turn."""
        return sum(map(len, self._parts))

    def flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        self.flush()
        self._close()

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()
