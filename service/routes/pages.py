"""GET / and /docs, and the files that they are made of, with nothing to fetch from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.call import DirectRoute

_STATIC = Path(__file__).parents[1] / "static"
_FRESH = {"cache-control": "no-cache"}
# A page's own files may run and be fetched, and nothing else.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
    **_FRESH,
}


class _Files(StaticFiles):
    """Files that a browser keeps and asks about each time, so that a new version of the service is seen at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_FRESH)
        return response


def make_router() -> APIRouter:
    """The pages are read once, here."""
    router = APIRouter(route_class=DirectRoute)
    index = (_STATIC / "index.html").read_text(encoding="utf-8")
    reference = (_STATIC / "docs.html").read_text(encoding="utf-8")

    @router.get("/", include_in_schema=False)
    async def page(_: Request) -> HTMLResponse:
        """Drop a photo and see what the model sees."""
        return HTMLResponse(index, headers=_HEADERS)

    @router.get("/docs", include_in_schema=False)
    async def docs(_: Request) -> HTMLResponse:
        """The reference of the routes, made from /openapi.json."""
        return HTMLResponse(reference, headers=_HEADERS)

    router.mount("/static", _Files(directory=_STATIC))
    return router
