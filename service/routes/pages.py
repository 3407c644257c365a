"""GET / and /docs, and the files that they are made of, with nothing to fetch from elsewhere."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.call import DirectRoute
from service.headers import knows_etag

_STATIC = Path(__file__).parents[1] / "static"
_FRESH = {"cache-control": "no-cache"}
# A page's own files may run and be fetched, and nothing else.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
    **_FRESH,
}


class _Files(StaticFiles):
    """Files that a browser keeps and asks about each time, so that a new version of the service is seen at once.

    No pages: without the headers of a page, an HTML file could be framed, and would run what a page may not.
    """

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return ("", None) if path.endswith(".html") else super().lookup_path(path)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_FRESH)
        return response


class _Page:
    """A page that was read once. A browser that has it is told so."""

    def __init__(self, name: str) -> None:
        self._html = (_STATIC / name).read_bytes()
        self._etag = f'"{sha256(self._html).hexdigest()[:32]}"'

    def answer(self, request: Request) -> Response:
        headers = {**_HEADERS, "etag": self._etag}
        if knows_etag(request.scope, self._etag):
            return Response(status_code=304, headers=headers)
        return Response(self._html, headers=headers, media_type="text/html")


def make_router() -> APIRouter:
    """The pages are read here, the files beside them whenever they are asked for."""
    router = APIRouter(route_class=DirectRoute)
    index, reference = _Page("index.html"), _Page("docs.html")

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """Drop a photo and see what the model sees."""
        return index.answer(request)

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        """The reference of the routes, made from /openapi.json."""
        return reference.answer(request)

    router.mount("/static", _Files(directory=_STATIC))
    return router
