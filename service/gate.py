"""What every request passes around its handler: the key, draining, the deadline, a client that leaves, its record.

Plain ASGI: Starlette's BaseHTTPMiddleware would hide the disconnect.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bundle.errors import DeadlineExceeded, MaeveError, Unavailable
from service.errors import BadParameter, Unauthorized, classify, error_response
from service.headers import make_table
from service.keys import Keyring
from service.limits import RateLimits
from service.metrics import Metrics
from service.record import REQUEST_ID, UNROUTED, Record, RequestIds
from service.settings import Settings

if TYPE_CHECKING:
    from service.tracing import Tracing

TIMEOUT_HEADER = "x-request-timeout-ms"
_TIMEOUT_NAME = TIMEOUT_HEADER.encode()
# Never behind the key, and never refused while stopping
OPEN = frozenset({
    "/", "/livez", "/readyz", "/startupz", "/metrics", "/info", "/docs", "/openapi.json", "/v2/health/live",
    "/v2/health/ready",
})  # fmt: skip
_OPEN_FILES = "/static/"  # what the page is made of
_THUMBNAILS = "/thumbnails/"  # up to a hundred go with one answer of /search; they have a limit of their own
_CLIENT_LEFT = 499  # nobody reads it; nginx's number, for the metrics

access_log = logging.getLogger("service.access")


class Gate:
    """The state that outlives a request: how many are in flight, and whether new ones are still taken."""

    def __init__(self) -> None:
        self.draining = False
        self._in_flight: set[_Passage] = set()
        self._waiting: list[tuple[set[_Passage], asyncio.Future[None]]] = []  # of `settled`

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
        if self._in_flight:
            done = asyncio.get_running_loop().create_future()
            self._waiting.append((set(self._in_flight), done))
            await done

    def enter(self, passage: _Passage) -> None:
        if self.draining:
            raise Unavailable("the service is stopping and takes no new requests")
        self._in_flight.add(passage)

    def leave(self, passage: _Passage) -> None:
        self._in_flight.discard(passage)
        for passages, done in self._waiting:
            passages.discard(passage)
            if not passages and not done.done():
                done.set_result(None)
        if self._waiting:
            self._waiting = [each for each in self._waiting if each[0]]


class GateMiddleware:
    """Takes every HTTP request through the gate."""

    def __init__(
        self, app: ASGIApp, *, gate: Gate, settings: Settings, metrics: Metrics, tracing: Tracing | None = None
    ) -> None:
        self._app = app
        self._gate = gate
        self._timeout_ms = settings.timeout_ms
        keys = settings.keys()
        self._keyring = Keyring(keys) if keys else None
        self._limits = RateLimits(keys, settings.rate_limit, share=1 / settings.workers)
        self._open = OPEN - {"/metrics"} if settings.metrics_api_key else OPEN
        self._metrics = metrics
        self._tracing = tracing
        self._logs = settings.access_log
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = make_table(scope)
        record = Record(scope["method"], self._ids.choose(headers.get(b"x-request-id")), _CLIENT_LEFT)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # a copy: the server looks at its own, and leaves out the body
        scope["maeve.record"] = record
        REQUEST_ID.set(record.request_id)
        passage = _Passage(receive, send, record, self._gate, works=not is_open(scope["path"], OPEN))
        try:
            await self._pass(scope, headers, passage)
        except Exception as e:  # noqa: BLE001 - the outermost place: every error gets an answer
            await self._answer(e, scope, passage)
        finally:
            self._account(scope, record)
            if self._tracing is not None and passage.works:
                self._tracing.tell(record, headers)

    async def _pass(self, scope: Scope, headers: dict[bytes, bytes], passage: _Passage) -> None:
        if self._keyring is not None and not is_open(scope["path"], self._open):
            key = self._keyring.find(_sent_key(headers))
            if key is None:
                raise Unauthorized("send the API key as Authorization: Bearer KEY, or as X-API-Key: KEY")
            passage.record.key = key.name
            if not scope["path"].startswith(_THUMBNAILS):
                self._limits.take(key)
        timeout_s = _timeout_s(headers, self._timeout_ms)
        if not passage.works:
            await passage.run(self._app, scope, timeout_s)
            return
        self._gate.enter(passage)
        try:
            await passage.run(self._app, scope, timeout_s)
        finally:
            self._gate.leave(passage)

    async def _answer(self, error: Exception, scope: Scope, passage: _Passage) -> None:
        self._metrics.error(classify(error)[1])
        response = error_response(error, scope["path"])
        if not passage.started:
            await response(scope, passage.receive, passage.send)

    def _account(self, scope: Scope, record: Record) -> None:
        record.end(_route(scope))
        self._metrics.request(record.route, record.status, record.seconds)
        for stage in ("read", "search", "encode"):
            if stage in record.stages:
                self._metrics.stage(stage, record.stages[stage])
        if self._logs:
            access_log.info("%s", record, extra={"request": record})


class _Passage:
    """One request on its way: it ends early when its time is over, its client has left, or the service must stop.

    `works`: whether it asks for work, or only looks at the service.
    """

    def __init__(self, receive: Receive, send: Send, record: Record, gate: Gate, *, works: bool) -> None:
        self.works = works
        self.started = False
        self.record = record
        self._gate = gate
        self._answered = False
        self._receive = receive
        self._send = send
        self._body_read = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._cut = False
        self._reason: MaeveError | None = None

    async def run(self, app: ASGIApp, scope: Scope, timeout_s: float) -> None:
        """Raises what cut the request short: DeadlineExceeded, Unavailable; nothing for a client that left."""
        loop = asyncio.get_running_loop()
        scope["maeve.deadline"] = loop.time() + timeout_s
        self._task = asyncio.current_task()
        # What a cache knows is answered before the loop turns, and needs neither a timer nor a task for its client
        loop.call_soon(self._arm, loop, timeout_s)
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
            if self._timer is not None:
                self._timer.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
            self._task = None

    def _arm(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """For a request that waits for something."""
        if self._task is not None:
            self._timer = loop.call_later(timeout_s, self._expire, timeout_s)
            self._start_watching()

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
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._body_read = True
            if self._timer is not None:
                self._start_watching()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.record.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers()]
        else:
            self.record.num_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._answered = True
        await self._send(message)

    def _headers(self) -> Iterable[tuple[bytes, bytes]]:
        yield b"x-request-id", self.record.request_id.encode()
        if self.works:
            yield b"server-timing", self.record.server_timing()
        if self._gate.draining:  # what comes next must find another service
            yield b"connection", b"close"

    def _start_watching(self) -> None:
        if self._body_read and not self._answered and self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """After the body's end the next message can only be that the client has left, or has its answer."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.abort(None)


def is_open(path: str, paths: frozenset[str]) -> bool:
    """Whether the path is one of these, or that of a file of the page."""
    return path in paths or path.startswith(_OPEN_FILES)


def _route(scope: Scope) -> str:
    """The path of the route as the router knows it, also of a request that was refused before it got there."""
    route = scope.get("route")
    if route is None and "app" in scope:
        routes = scope["app"].routes
        route = next((each for each in routes if each.matches(scope)[0] is Match.FULL), None)
    return getattr(route, "path", UNROUTED)


def _sent_key(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return (token if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")).strip()


def _timeout_s(headers: dict[bytes, bytes], longest_ms: float) -> float:
    """The service's limit, or less where the caller asks for less."""
    sent = headers.get(_TIMEOUT_NAME)
    if sent is None:
        return longest_ms / 1000
    text = sent.decode("latin-1")
    try:
        asked_ms = float(text)
    except ValueError:
        asked_ms = math.nan
    if not asked_ms > 0:
        raise BadParameter(
            f"{TIMEOUT_HEADER} must be a positive number of milliseconds, got {text!r}", param=TIMEOUT_HEADER
        )
    return min(asked_ms, longest_ms) / 1000
