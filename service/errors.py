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


class NotOffered(MaeveError):
    """The bundle lacks the graph that the route needs (HTTP 404)."""


class UnknownModel(MaeveError):
    """The request names a model that is not the bundle served (HTTP 404)."""


class NotAcceptable(MaeveError):
    """The route cannot answer in any of the types asked for (HTTP 406)."""


# The most specific class of an error decides; what is in no row is a fault of ours, 500.
ERRORS: dict[type[MaeveError], tuple[int, str]] = {
    InvalidInput: (400, "invalid_input"),
    Unauthorized: (401, "unauthorized"),
    NotOffered: (404, "not_offered"),
    UnknownModel: (404, "model_not_found"),
    NotAcceptable: (406, "not_acceptable"),
    TooLarge: (413, "too_large"),
    UnsupportedMedia: (415, "unsupported_media"),
    BadParameter: (422, "bad_parameter"),
    Overloaded: (429, "overloaded"),
    Unavailable: (503, "unavailable"),
    DeadlineExceeded: (504, "deadline_exceeded"),
}
INTERNAL = (500, "internal")
# Answers of the router itself, before any handler
HTTP_TYPES = {404: "not_found", 405: "method_not_allowed"}

_UNAVAILABLE_RETRY_S = "1"
_FLAT = "/v2"
_MAX_MESSAGE, _MAX_PARAM = 500, 100


def error_response(error: Exception, path: str) -> Response:
    """The answer to any error that a request to `path` ended in: ours, the router's, or one that nobody foresaw."""
    flat = path == _FLAT or path.startswith(f"{_FLAT}/")
    if isinstance(error, HTTPException):
        kind = HTTP_TYPES.get(error.status_code, "http_error")
        return _response(flat, error.status_code, kind, error.detail, None, dict(error.headers or {}))
    status, kind = _classify(error)
    if status == INTERNAL[0]:
        log.error("request failed", exc_info=error)
        return _response(flat, status, kind, "the service failed on this request; its log says more")
    index = error.index if isinstance(error, InvalidInput) else None
    param = error.param if isinstance(error, InvalidInput) else None
    if param is None and index is not None:
        param = f"images[{index}]"
    return _response(flat, status, kind, str(error), param, _headers(error))


def _classify(error: Exception) -> tuple[int, str]:
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
    text, rest = _clip(message, _MAX_MESSAGE), {"param": param and _clip(param, _MAX_PARAM), "code": status}
    body = {"error": text, "type": kind, **rest} if flat else {"error": {"type": kind, "message": text, **rest}}
    return Response(orjson.dumps(body), status, headers, "application/json")


def _clip(text: str, length: int) -> str:
    """Messages quote what was sent, and that may be long."""
    return text if len(text) <= length else text[: length - 3] + "..."
