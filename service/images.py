"""The images of a request: a raw body, multipart parts called `file`, or JSON with base64. The size is held against the
limit while reading, so no more than the limit is ever in memory. Nothing is decoded here.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import Any

import orjson
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from bundle.errors import InvalidInput, TooLarge, UnsupportedMedia
from service.errors import BadParameter
from service.fetch import is_url
from service.headers import header
from service.offload import by_size
from service.settings import Settings

_JSON = "application/json"
_MULTIPART = "multipart/form-data"
# What may hold an encoded image as it is. curl --data-binary calls everything a form when not told otherwise.
_RAW = {"", "application/octet-stream", "application/x-www-form-urlencoded"}
_FIELD = "file"


async def read_images(request: Request, settings: Settings, *, max_images: int) -> list[bytes | str]:
    """The encoded images, at least one; a string is the URL of one.

    Errors: TooLarge (bytes, images), UnsupportedMedia (the body's type), BadParameter (the body's form), InvalidInput
    (an image's base64, with its index).
    """
    media_type, options = _content_type(request)
    body = await _read_body(request, settings.max_body_bytes)
    if media_type.startswith("image/") or media_type in _RAW:
        images: list[bytes | str] = [body]
    elif media_type == _MULTIPART:
        images = await by_size(len(body), lambda: _from_multipart(body, options.get(b"boundary")))
    else:
        images = await by_size(len(body), lambda: _from_json(body, max_images))
    if len(images) > max_images:
        raise TooLarge(f"{len(images)} images in one request, {max_images} at most", param="images")
    return images


def _content_type(request: Request) -> tuple[str, dict[bytes, bytes]]:
    """Refuse before reading a byte of what could not be used."""
    media_type, options = _parse_content_type(header(request.scope, b"content-type"))
    if header(request.scope, b"content-encoding") not in (None, "identity"):
        raise UnsupportedMedia("compressed bodies are not read", param="content-encoding")
    return media_type, options


@lru_cache(maxsize=64)
def _parse_content_type(text: str | None) -> tuple[str, dict[bytes, bytes]]:
    raw_type, options = parse_options_header(text)
    media_type = raw_type.decode("latin-1").lower()
    if not (media_type.startswith("image/") or media_type in {*_RAW, _MULTIPART, _JSON}):
        raise UnsupportedMedia(f"cannot read {media_type}; send image/*, {_MULTIPART} or {_JSON}", param="content-type")
    return media_type, options


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """ClientDisconnect if the client leaves before the end."""
    declared = header(request.scope, b"content-length") or "0"
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_many_bytes(max_bytes)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > max_bytes:
            raise _too_many_bytes(max_bytes)
        if chunk:
            chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_many_bytes(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body has more than {max_bytes} bytes", param="body")


def _from_multipart(body: bytes, boundary: bytes | None) -> list[bytes | str]:
    """The parts called `file`, parsed in memory: the body is there, spooling it to disk would only cost time."""
    if boundary is None:
        raise BadParameter("multipart body without a boundary", param="content-type")
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as e:
        raise BadParameter(f"malformed multipart body: {e}", param="body") from e
    if not parts.complete:
        raise BadParameter("the multipart body was cut short", param="body")
    if not parts.files:
        raise BadParameter(f"no part is called {_FIELD!r}", param=_FIELD)
    return [bytes(part) for part in parts.files]


class _Parts:
    """Collects the parser's callbacks."""

    def __init__(self) -> None:
        self.files: list[bytearray] = []
        self.complete = False
        self._named = False
        self._name = bytearray()
        self._value = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": lambda data, start, end: self.files[-1].extend(data[start:end]),
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._named = False

    def _header_end(self) -> None:
        name, value = bytes(self._name).lower(), bytes(self._value)
        self._name.clear()
        self._value.clear()
        if name != b"content-disposition":
            return
        field = parse_options_header(value)[1].get(b"name", b"").decode("utf-8", "replace")
        if field != _FIELD:
            raise BadParameter(f"unknown part {field!r}; images go into {_FIELD!r}", param=field)
        self._named = True
        self.files.append(bytearray())

    def _headers_finished(self) -> None:
        if not self._named:
            raise BadParameter("a part of the multipart body has no name", param="body")

    def _end(self) -> None:
        self.complete = True


def _from_json(body: bytes, max_images: int) -> list[bytes | str]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadParameter(f"malformed JSON: {e}", param="body") from e
    if not isinstance(document, dict) or set(document) != {"images"}:
        raise BadParameter('the JSON body must be {"images": [...]} and nothing else', param="images")
    images = document["images"]
    if not isinstance(images, list) or not images:
        raise BadParameter("images must be a list of at least one string", param="images")
    if len(images) > max_images:
        raise TooLarge(f"{len(images)} images in one request, {max_images} at most", param="images")
    return [_from_text(text, index) for index, text in enumerate(images)]


def _from_text(text: Any, index: int) -> bytes | str:
    """Of standard base64, or a data URI of it, the bytes; a URL as it is."""
    if not isinstance(text, str):
        raise BadParameter(f"image {index} must be a string of base64 or a data URI", param=f"images[{index}]")
    if is_url(text):
        return str(text)
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise InvalidInput(f"image {index}: the data URI is not in base64", index=index)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:  # ValueError: characters beyond ASCII
        raise InvalidInput(f"image {index} is not valid base64: {e}", index=index) from e
