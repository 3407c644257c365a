"""The images of a request: a raw body, multipart parts called `file`, or JSON with base64. Nothing is decoded here."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bundle.errors import InvalidInput, TooLarge, UnsupportedMedia
from service.body import content_type, parse_json, read_body
from service.errors import BadParameter
from service.fetch import is_url
from service.offload import by_size
from service.settings import Settings

_JSON = "application/json"
_MULTIPART = "multipart/form-data"
# What may hold an encoded image as it is. curl --data-binary calls everything a form when not told otherwise.
_RAW = {"", "application/octet-stream", "application/x-www-form-urlencoded"}
_FIELD = "file"

_VALUES_PER_IMAGE = 8  # in JSON that lists images: more than any form of it needs
_OTHER_VALUES = 64


async def read_images(request: Request, settings: Settings, *, max_images: int) -> list[bytes | str]:
    """The encoded images, at least one; a string is the URL of one.

    Errors: TooLarge (bytes, images), UnsupportedMedia (the body's type), BadParameter (the body's form), InvalidInput
    (an image's base64, with its index).
    """
    media_type, options = content_type(request)
    raw = media_type.startswith("image/") or media_type in _RAW
    if not raw and media_type not in (_MULTIPART, _JSON):  # before reading a byte of what could not be used
        raise UnsupportedMedia(f"cannot read {media_type}; send image/*, {_MULTIPART} or {_JSON}", param="content-type")
    body = await read_body(request, settings.max_body_bytes)
    if raw:
        if body.startswith(b"{"):  # no image begins so, and curl -d says nothing of JSON by itself
            raise UnsupportedMedia(f"the body looks like JSON; send it as Content-Type: {_JSON}", param="content-type")
        return [body]
    if media_type == _MULTIPART:
        return await by_size(len(body), lambda: _from_multipart(body, options.get(b"boundary"), max_images))
    return await by_size(len(body), lambda: _from_json(body, max_images))


def parse_image_list(body: bytes, max_images: int) -> Any:
    """JSON that holds a list of images and little else. Raises as `parse_json`."""
    most = most_keys(max_images)
    return parse_json(body, max_values=most, max_keys=most)


def most_keys(max_images: int) -> int:
    """Of a request of so many images in JSON, whatever its form."""
    return _VALUES_PER_IMAGE * max_images + _OTHER_VALUES


def from_texts(texts: Sequence[Any], max_images: int, *, param: str) -> list[bytes | str]:
    """Images as standard base64, data URIs of it, or URLs, which stay.

    Errors: BadParameter naming `param` (no text, not a string), TooLarge (too many), InvalidInput (broken base64).
    """
    if not texts:
        raise BadParameter(f"{param} must be a list of at least one string", param=param)
    check_count(len(texts), max_images)
    return [from_text(text, index) for index, text in enumerate(texts)]


def check_count(num_images: int, max_images: int) -> None:
    """TooLarge if a request has more images than it may."""
    if num_images > max_images:
        named = "image" if max_images == 1 else "images"
        raise TooLarge(f"more than {max_images} {named} in one request", param="images")


def _from_multipart(body: bytes, boundary: bytes | None, max_images: int) -> list[bytes | str]:
    """The parts called `file`, parsed in memory: the body is there, spooling it to disk would only cost time."""
    if boundary is None:
        raise BadParameter("multipart body without a boundary", param="content-type")
    parts = _Parts(max_images)
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

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
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
        check_count(len(self.files) + 1, self._max_images)  # here: what follows is not worth parsing
        self.files.append(bytearray())

    def _headers_finished(self) -> None:
        if not self._named:
            raise BadParameter("a part of the multipart body has no name", param="body")

    def _end(self) -> None:
        self.complete = True


def _from_json(body: bytes, max_images: int) -> list[bytes | str]:
    document = parse_image_list(body, max_images)
    if not isinstance(document, dict) or set(document) != {"images"}:
        raise BadParameter('the JSON body must be {"images": [...]} and nothing else', param="images")
    if not isinstance(document["images"], list):
        raise BadParameter("images must be a list of at least one string", param="images")
    return from_texts(document["images"], max_images, param="images")


def from_text(text: Any, index: int) -> bytes | str:
    """Of standard base64, or a data URI of it, the bytes; a URL as it is."""
    if isinstance(text, str) and is_url(text):
        return text
    return from_base64(text, index)


def from_base64(text: Any, index: int) -> bytes:
    """The bytes of standard base64, or of a data URI of it. BadParameter, InvalidInput."""
    if not isinstance(text, str):
        raise BadParameter(f"image {index} must be a string of base64 or a data URI", param=f"images[{index}]")
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise InvalidInput(f"image {index}: the data URI is not in base64", index=index)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:  # ValueError: characters beyond ASCII
        raise InvalidInput(
            f"image {index} is not valid base64: {e}; images are sent as base64 or data URIs", index=index
        ) from e
