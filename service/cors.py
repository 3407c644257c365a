"""Which pages of other origins may call the service. Off unless MAEVE_CORS_ORIGINS names some."""

from __future__ import annotations

from fastapi import Response
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from bundle.errors import InvalidInput
from service.errors import error_response

_METHODS = ("GET", "POST")
# What a page may send beyond what browsers always allow, and what it may read of an answer
_REQUEST_HEADERS = (
    "Authorization", "Cache-Control", "Inference-Header-Content-Length", "Traceparent", "Tracestate", "X-API-Key",
    "X-Request-Id", "X-Request-Timeout-Ms",
)  # fmt: skip
_RESPONSE_HEADERS = (
    "Inference-Header-Content-Length", "Maeve-Cached", "Maeve-Digest", "Maeve-Dtype", "Maeve-Model", "Maeve-Pooling",
    "Maeve-Shape", "Retry-After", "Server-Timing", "X-Request-Id",
)  # fmt: skip


class Cors(CORSMiddleware):
    """Stands before everything else, so that errors can be read by the page too. No credentials: a key is a header."""

    def __init__(self, app: ASGIApp, *, origins: tuple[str, ...]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=_METHODS, allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
        )  # fmt: skip

    def preflight_response(self, request_headers: Headers) -> Response:
        """Starlette's, a refusal in the shape of every error."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        refusal = error_response(InvalidInput("a page of this origin may not send this request", param="origin"))
        for name in ("access-control-allow-origin", "vary"):
            if name in response.headers:
                refusal.headers[name] = response.headers[name]
        return refusal
