"""What every request passes around its handler: the key, draining, the deadline, a client that leaves, counts.

Plain ASGI: Starlette's BaseHTTPMiddleware would hide the disconnect.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bundle.errors import DeadlineExceeded, MaeveError, Unavailable
from service.errors import BadParameter, Unauthorized, error_response
from service.headers import header
from service.metrics import Metrics
from service.settings import Settings

TIMEOUT_HEADER = "x-request-timeout-ms"
_TIMEOUT_NAME = TIMEOUT_HEADER.encode()
_OPEN = {"/", "/livez", "/readyz", "/metrics", "/info", "/docs", "/openapi.json"}  # never behind the key
_CLIENT_LEFT = 499  # nobody reads it; nginx's number, for the metrics
_UNROUTED = "unmatched"


class Gate:
    """The state that outlives a request: how many are in flight, and whether new ones are still taken."""

    def __init__(self) -> None:
        self.draining = False
        self._in_flight: set[_Passage] = set()

    @property
    def in_flight(self) -> int:
        """Requests for work that have not been answered yet; looking at the service does not count."""
        return len(self._in_flight)

    def drain(self) -> None:
        """From now on, refuse requests for work."""
        self.draining = True

    def abort(self) -> None:
        """Answer what is still in flight with 503."""
        for passage in list(self._in_flight):
            passage.abort(Unavailable("the service stopped before this request was done"))

    async def settled(self) -> None:
        """Wait until every request for work that is in flight now has ended; newer ones do not matter."""
        await asyncio.gather(*(passage.ended.wait() for passage in self._in_flight))

    def enter(self, passage: _Passage) -> None:
        if self.draining:
            raise Unavailable("the service is stopping and takes no new requests")
        self._in_flight.add(passage)

    def leave(self, passage: _Passage) -> None:
        self._in_flight.discard(passage)
        passage.ended.set()


class GateMiddleware:
    """Takes every HTTP request through the gate."""

    def __init__(self, app: ASGIApp, *, gate: Gate, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._gate = gate
        self._timeout_ms = settings.timeout_ms
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._open = _OPEN - {"/metrics"} if settings.metrics_api_key else _OPEN
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        passage = _Passage(receive, send)
        try:
            await self._pass(scope, passage)
        except Exception as e:  # noqa: BLE001 - the outermost place: every error gets an answer
            await self._answer(e, scope, passage)
        finally:
            route = getattr(scope.get("route"), "path", _UNROUTED)
            self._metrics.request(route, passage.status, time.perf_counter() - start)

    async def _pass(self, scope: Scope, passage: _Passage) -> None:
        is_open = scope["path"] in self._open
        if self._key is not None and not is_open and not _carries(Headers(scope=scope), self._key):
            raise Unauthorized("send the API key as Authorization: Bearer KEY, or as X-API-Key: KEY")
        timeout_s = _timeout_s(scope, self._timeout_ms)
        if scope["path"] not in _OPEN:
            self._gate.enter(passage)
        try:
            await passage.run(self._app, scope, timeout_s)
        finally:
            self._gate.leave(passage)

    async def _answer(self, error: Exception, scope: Scope, passage: _Passage) -> None:
        response = error_response(error)
        if not passage.started:
            await response(scope, passage.receive, passage.send)


class _Passage:
    """One request on its way: it ends early when its time is over, its client has left, or the service must stop."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.status = _CLIENT_LEFT
        self.started = False
        self.ended = asyncio.Event()
        self._answered = False
        self._body_read = False
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._cut = False
        self._reason: MaeveError | None = None

    async def run(self, app: ASGIApp, scope: Scope, timeout_s: float) -> None:
        """Raises what cut the request short: DeadlineExceeded, Unavailable; nothing for a client that left."""
        loop = asyncio.get_running_loop()
        scope["maeve.deadline"] = loop.time() + timeout_s
        self._task = asyncio.current_task()
        timer = loop.call_later(timeout_s, self._expire, timeout_s)
        try:
            await app(scope, self.receive, self.send)
        except ClientDisconnect:  # while its body was being read
            return
        except asyncio.CancelledError:
            if not self._cut_short():
                raise
            if self._reason is not None:
                raise self._reason from None
        finally:
            timer.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
            self._task = None

    def abort(self, reason: MaeveError | None) -> None:
        """End the request, unless it is answered. `reason`: the error to answer with; None if nobody would read it."""
        if self._task is not None and not self._cut and not self._answered:
            self._cut, self._reason = True, reason
            self._task.cancel()

    def _expire(self, timeout_s: float) -> None:
        self.abort(DeadlineExceeded(f"not done within {timeout_s * 1000:.0f} ms"))

    def _cut_short(self) -> bool:
        """Whether the cancellation was ours alone. If so it ends here, and the task goes on to answer."""
        assert self._task is not None
        return self._cut and self._task.uncancel() == 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False) and not self._body_read:
            self._body_read = True
            # Not at once: what a cache knows is answered before the loop's next turn, and needs no watcher.
            asyncio.get_running_loop().call_soon(self._start_watching)
        return message

    def _start_watching(self) -> None:
        if self._task is not None and not self._answered:
            self._watcher = asyncio.create_task(self._watch())

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
        elif not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    async def _watch(self) -> None:
        """After the body's end the next message can only be that the client has left, or has its answer."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.abort(None)


def _carries(headers: Headers, key: bytes) -> bool:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    sent = token if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return hmac.compare_digest(sent.strip().encode("latin-1"), key)


def _timeout_s(scope: Scope, longest_ms: float) -> float:
    """The service's limit, or less where the caller asks for less."""
    text = header(scope, _TIMEOUT_NAME)
    if text is None:
        return longest_ms / 1000
    try:
        asked_ms = float(text)
    except ValueError:
        asked_ms = math.nan
    if not asked_ms > 0:
        raise BadParameter(
            f"{TIMEOUT_HEADER} must be a positive number of milliseconds, got {text!r}", param=TIMEOUT_HEADER
        )
    return min(asked_ms, longest_ms) / 1000
