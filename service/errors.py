"""The one place where errors become HTTP. Every error has the shape {"error": {"type", "message", "param", "code"}}.

Under /v2 the same four stand flat, with the message as `error`: its clients take nothing but a string there.
"""

from __future__ import annotations

import logging
import math

import orjson
from fastapi import Response
from starlette.exceptions import HTTPException

from bundle.errors import (
    DeadlineExceeded,
    InvalidInput,
    MaeveError,
    Overloaded,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)

log = logging.getLogger(__name__)


class BadParameter(InvalidInput):
    """A parameter, header or body does not have the form that it must have (HTTP 422)."""


class Unauthorized(MaeveError):
    """The API key is missing or wrong (HTTP 401)."""


class RateLimited(Overloaded):
    """The API key has used up its requests (HTTP 429). `retry_after_s`: seconds until it may send the next one."""


class MalformedRequest(MaeveError):
    """The bytes are no HTTP request, or one that could be read in two ways (HTTP 400)."""


class HeadersTimeout(MaeveError):
    """The headers of a request took too long to arrive (HTTP 408)."""


class TargetTooLong(MaeveError):
    """The path and query have too many bytes (HTTP 414)."""


class HeadersTooLarge(MaeveError):
    """Too many headers, or too many bytes of them (HTTP 431)."""


class NotOffered(MaeveError):
    """The service lacks what the route needs: a graph of the bundle, an index, a folder (HTTP 404)."""


class NoThumbnail(MaeveError):
    """There is no thumbnail of that path (HTTP 404), whatever the reason."""

    def __init__(self, path: str) -> None:
        super().__init__(f"there is no thumbnail of {path!r}")


class UnknownModel(MaeveError):
    """The request names a model that is not the bundle served (HTTP 404)."""


class NotAcceptable(MaeveError):
    """The route cannot answer in any of the types asked for (HTTP 406)."""


# The most specific class of an error decides; what is in no row is a fault of ours, 500.
ERRORS: dict[type[MaeveError], tuple[int, str]] = {
    MalformedRequest: (400, "malformed_request"),
    InvalidInput: (400, "invalid_input"),
    Unauthorized: (401, "unauthorized"),
    NoThumbnail: (404, "not_found"),
    NotOffered: (404, "not_offered"),
    UnknownModel: (404, "model_not_found"),
    NotAcceptable: (406, "not_acceptable"),
    HeadersTimeout: (408, "headers_timeout"),
    TooLarge: (413, "too_large"),
    TargetTooLong: (414, "target_too_long"),
    UnsupportedMedia: (415, "unsupported_media"),
    BadParameter: (422, "bad_parameter"),
    RateLimited: (429, "rate_limited"),
    Overloaded: (429, "overloaded"),
    HeadersTooLarge: (431, "headers_too_large"),
    Unavailable: (503, "unavailable"),
    DeadlineExceeded: (504, "deadline_exceeded"),
}
INTERNAL = (500, "internal")
# Answers of the router itself, before any handler
HTTP_TYPES = {404: "not_found", 405: "method_not_allowed"}

_UNAVAILABLE_RETRY_S = "1"
_FLAT = "/v2"
# Messages quote what the caller sent, which may be megabytes
_MESSAGE_CHARS = 500
_PARAM_CHARS = 100


def error_response(error: Exception, path: str = "") -> Response:
    """The answer to any error that a request to `path` ended in: ours, the router's, or one that nobody foresaw."""
    flat = path == _FLAT or path.startswith(f"{_FLAT}/")
    status, kind = classify(error)
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        return _response(flat, status, kind, _advice(error, headers), None, headers)
    if status == INTERNAL[0]:
        log.error("request failed", exc_info=error)
        return _response(flat, status, kind, "the service failed on this request; its log says more")
    index = error.index if isinstance(error, InvalidInput) else None
    param = error.param if isinstance(error, InvalidInput) else None
    if param is None and index is not None:
        param = f"images[{index}]"
    return _response(flat, status, kind, str(error), param, _headers(error))


def _advice(error: HTTPException, headers: dict[str, str]) -> str:
    """What the router leaves out."""
    match error.status_code:
        case 404:
            return "there is no such route; GET /docs lists them"
        case 405:
            return f"the route does not know this method; use {headers.get('Allow', 'another')}"
        case _:
            return str(error.detail)


def classify(error: Exception) -> tuple[int, str]:
    """Its status and type."""
    if isinstance(error, HTTPException):
        return error.status_code, HTTP_TYPES.get(error.status_code, "http_error")
    for cls in type(error).__mro__:
        if cls in ERRORS:
            return ERRORS[cls]
    return INTERNAL


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, Overloaded):
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, Unavailable):
        return {"retry-after": _UNAVAILABLE_RETRY_S}
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    return {}


def _response(
    flat: bool, status: int, kind: str, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    text = _shortened(message, _MESSAGE_CHARS)
    rest = {"param": None if param is None else _shortened(param, _PARAM_CHARS), "code": status}
    body = {"error": text, "type": kind, **rest} if flat else {"error": {"type": kind, "message": text, **rest}}
    return Response(orjson.dumps(body), status, headers, "application/json")


def _shortened(text: str, num_chars: int) -> str:
    return text if len(text) <= num_chars else text[: num_chars - 1] + "…"
