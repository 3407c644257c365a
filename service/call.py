"""One request as a handler sees it, and the route that hands it over.

Not FastAPI's dependencies: solving those took more than a third of the event loop's time for a request of one image, on
the cores that the model needs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from bundle.errors import Unavailable
from service.engine import Answer, Engine
from service.errors import BadParameter
from service.fetch import Fetcher, fetch_images
from service.gate import Gate
from service.images import read_images
from service.metrics import Metrics
from service.settings import Settings

Q = TypeVar("Q", bound=BaseModel)
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_RENDER_INLINE_VALUES = 2**15  # more values than this would hold up the event loop for milliseconds


class DirectRoute(APIRoute):
    """For handlers that take the request and return a response: there is nothing to solve, check or convert.

    OpenAPI is made from it as from any route.
    """

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app


class Call:
    """The request, and the parts of the service around it.

    `accept`: the Accept header. `deadline`: when the request's time is over, in the event loop's time.
    """

    def __init__(self, request: Request) -> None:
        state = request.app.state
        self.settings: Settings = state.settings
        self._engine: Engine | None = state.engine
        self.metrics: Metrics = state.metrics
        self.gate: Gate = state.gate
        self._fetcher: Fetcher | None = state.fetcher
        self.accept: str | None = request.headers.get("accept")
        self.deadline: float = request.scope["maeve.deadline"]
        self._request = request

    @property
    def engine(self) -> Engine:
        """The same for the whole request. Unavailable while there is none."""
        if self._engine is None:
            raise Unavailable("the service is starting")
        return self._engine

    def query(self, model: type[Q]) -> Q:
        """The query parameters. BadParameter for the first that is unknown, given twice or out of range."""
        pairs = parse_qsl(self._request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        params = dict(pairs)
        if len(params) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadParameter(f"{twice}: given more than once", param=twice)
        try:
            return model.model_validate(params)
        except ValidationError as e:
            raise _bad_parameter(e) from e

    async def images(self, at_most: int | None = None) -> list[bytes]:
        """The encoded images of the body; up to the setting's number unless told otherwise. Raises as `read_images` and
        `fetch_images`.
        """
        images = await read_images(self._request, self.settings, max_images=at_most or self.settings.max_images)
        return await fetch_images(images, self._fetcher)

    async def render(self, answer: Answer, work: Callable[[], Response]) -> Response:
        """Make the response here, or on another thread where it is a large one."""
        return work() if answer.num_values <= _RENDER_INLINE_VALUES else await self.engine.offload(work)


def _bad_parameter(error: ValidationError) -> BadParameter:
    """The first of the complaints."""
    first = error.errors(include_url=False)[0]
    param = ".".join(map(str, first["loc"])) or None
    unknown = first["type"] == "extra_forbidden"
    message = "unknown parameter" if unknown else first["msg"].removeprefix("Value error, ")
    return BadParameter(f"{param}: {message}" if param else message, param=param)
