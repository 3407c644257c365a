"""GET / and /docs: one file each, with nothing to fetch from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from service.call import DirectRoute

_STATIC = Path(__file__).parents[1] / "static"
# The pages carry their own styles and scripts; nothing else may run or be fetched.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
    "cache-control": "no-cache",
}


def make_router() -> APIRouter:
    """The files are read once, here."""
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

    return router
