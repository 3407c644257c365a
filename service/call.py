"""One request as a handler sees it, and the route that hands it over.

Not FastAPI's dependencies: solving those took more than a third of the event loop's time for a request of one image, on
the cores that the model needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from bundle.errors import Unavailable
from service import encode
from service.body import expect_type, read_body
from service.cache import CachePolicy
from service.engine import Engine
from service.errors import BadParameter, NotOffered
from service.fetch import fetch_images
from service.gate import Gate
from service.headers import header, knows_etag
from service.images import read_images
from service.index import Neighbour
from service.metrics import Metrics
from service.options import Q, validate
from service.outcome import Answer
from service.record import Record
from service.search import Asked, Search
from service.settings import Settings
from service.thumbnails import Thumbnails

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_RENDER_INLINE_VALUES = 2**15  # more values than this would hold up the event loop for milliseconds


class DirectRoute(APIRoute):
    """For handlers that take the request and return a response: there is nothing to solve, check or convert.

    OpenAPI is made from it as from any route.
    """

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.path = self.path_format  # as it is told everywhere: parameters without their convertors

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app


class DirectRouter:
    """Takes a request straight to the DirectRoute of its method and path; all others go the router's way, which tries
    one route after the other.
    """

    def __init__(self, routes: Iterable[BaseRoute], otherwise: ASGIApp) -> None:
        self._routes: dict[tuple[str | None, str | None], DirectRoute] = {
            (method, route.path): route
            for route in routes
            if isinstance(route, DirectRoute) and not route.param_convertors
            for method in route.methods or ()
        }
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope.get("method"), scope.get("path")))
        if route is None or scope.get("root_path"):
            await self._otherwise(scope, receive, send)
            return
        scope["route"] = route
        await route.app(scope, receive, send)


class Call:
    """The request, and the parts of the service around it.

    `accept`: the Accept header. `deadline`: when the request's time is over, in the event loop's time.
    """

    def __init__(self, request: Request) -> None:
        self._state = state = request.scope["app"].state
        self._engine: Engine | None = state.engine
        self._request = request
        self.accept: str | None = header(request.scope, b"accept")
        self.deadline: float = request.scope["maeve.deadline"]
        self._record: Record = request.scope["maeve.record"]

    @property
    def settings(self) -> Settings:
        settings: Settings = self._state.settings
        return settings

    @property
    def metrics(self) -> Metrics:
        metrics: Metrics = self._state.metrics
        return metrics

    @property
    def gate(self) -> Gate:
        gate: Gate = self._state.gate
        return gate

    @property
    def search(self) -> Search:
        """NotOffered where the service has no index."""
        search: Search | None = self._state.search
        if search is None:
            raise NotOffered("the service has no index to search; MAEVE_SEARCH_INDEX names one")
        return search

    @property
    def thumbnails(self) -> Thumbnails:
        """NotOffered where the service has no folder of them."""
        thumbnails: Thumbnails | None = self._state.thumbnails
        if thumbnails is None:
            raise NotOffered("the service has no folder of thumbnails; MAEVE_THUMBNAILS names one")
        return thumbnails

    @property
    def cache_policy(self) -> CachePolicy:
        """What the request's Cache-Control allows the caches to do."""
        return CachePolicy.of(header(self._request.scope, b"cache-control"))

    @property
    def started(self) -> bool:
        """Whether there has been an engine yet."""
        started: bool = self._state.started
        return started

    @property
    def served(self) -> Engine | None:
        """The engine, or None while there is none."""
        return self._engine

    @property
    def engine(self) -> Engine:
        """The same for the whole request. Unavailable while there is none."""
        if self._engine is None:
            raise Unavailable("the service is starting")
        return self._engine

    def query(self, model: type[Q]) -> Q:
        """The query parameters. BadParameter for the first that is unknown, given twice or out of range."""
        query: Q = _parse_query(model, self._request.scope["query_string"])
        return query

    async def body(self, *readable: str) -> bytes:
        """The bytes of a body of one of these types, "" for none declared. Raises as `expect_type` and `read_body`."""
        start = time.perf_counter()
        try:
            expect_type(self._request, readable)
            return await read_body(self._request, self.settings.max_body_bytes)
        finally:
            self._record.stages["read"] = time.perf_counter() - start

    async def fetched(self, images: Sequence[bytes | str]) -> list[bytes]:
        """With what URLs name in their place. Raises as `fetch_images`."""
        return await fetch_images(images, self._state.fetcher)

    async def images(self, at_most: int | None = None) -> list[bytes]:
        """The encoded images of the body; up to the setting's number unless told otherwise. Raises as `read_images` and
        `fetch_images`.
        """
        start = time.perf_counter()
        try:
            sent = await read_images(self._request, self.settings, max_images=at_most or self.settings.max_images)
            images = await self.fetched(sent)
        finally:
            self._record.stages["read"] = time.perf_counter() - start
        self._record.num_images = len(images)
        return images

    async def neighbours(self, asked: Asked, answer: Answer) -> list[list[Neighbour]]:
        """Of every image whose vectors `answer` has. Raises as `Search.nearest`."""
        start = time.perf_counter()
        try:
            return await self.search.nearest(asked, encode.unit_vectors(answer, asked.embed, self.engine.manifest))
        finally:
            self._record.stages["search"] = time.perf_counter() - start

    def knows(self, etag: str) -> bool:
        """As `service.headers.knows_etag`."""
        return knows_etag(self._request.scope, etag)

    async def render(self, answer: Answer, work: Callable[[], Response], *, heavy: bool = False) -> Response:
        """Make the response here, or on another thread where it is a large one or `heavy` work."""
        self._record.take(answer.stages, num_images=len(answer.cached), num_cached=sum(answer.cached))
        start = time.perf_counter()
        inline = answer.num_values <= _RENDER_INLINE_VALUES and not heavy
        response = work() if inline else await self.engine.offload(work)
        self._record.stages["encode"] = time.perf_counter() - start
        return response


@lru_cache(maxsize=256)  # clients send the same few over and over
def _parse_query(model: type[Q], query_string: bytes) -> Q:
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    params: dict[str, Any] = dict(pairs)
    if len(params) < len(pairs) or not params.keys().isdisjoint(model.REPEATABLE):
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1 and name not in model.REPEATABLE), None)
        if twice is not None:
            raise BadParameter(f"{twice}: given more than once", param=twice)
        params |= {name: tuple(value for each, value in pairs if each == name) for name in model.REPEATABLE}
    return validate(model, params)
