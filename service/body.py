"""The body of a request: its declared type, its bytes up to the limit, and JSON that cannot blow up.

The size is held against the limit while reading, so no more than the limit is ever in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

import orjson
from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from bundle.errors import TooLarge, UnsupportedMedia
from service.errors import BadParameter
from service.headers import header


def content_type(request: Request) -> tuple[str, dict[bytes, bytes]]:
    """The media type in small letters, empty where none is declared, and its options.

    UnsupportedMedia if the body is compressed.
    """
    if header(request.scope, b"content-encoding") not in (None, "identity"):
        raise UnsupportedMedia("compressed bodies are not read", param="content-encoding")
    return _parse_content_type(header(request.scope, b"content-type"))


def expect_type(request: Request, readable: Collection[str]) -> None:
    """UnsupportedMedia unless the body is declared as one of `readable`."""
    media_type, _ = content_type(request)
    if media_type not in readable:
        named = " or ".join(each for each in readable if each)
        raise UnsupportedMedia(f"cannot read {media_type or 'a body of no type'}; send {named}", param="content-type")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """TooLarge by the declared length before a byte is read, else as soon as more have come. ClientDisconnect if the
    client leaves before the end.
    """
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


def parse_json(body: bytes, *, max_values: int, max_keys: int) -> Any:
    """BadParameter if it is not JSON, TooLarge if it may hold more than so many values, or keys of objects.

    Both are counted by the signs beside them, without parsing: two bytes of JSON can become a list of 56, and while
    millions of them are made, or complained of, nothing else in the process runs.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > max_values:
        raise TooLarge(f"the JSON has more than {max_values} values", param="body")
    if body.count(b":") > max_keys:
        raise TooLarge(f"the JSON has more than {max_keys} keys", param="body")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadParameter(f"malformed JSON: {e}", param="body") from e


@lru_cache(maxsize=64)
def _parse_content_type(text: str | None) -> tuple[str, dict[bytes, bytes]]:
    raw_type, options = parse_options_header(text)
    return raw_type.decode("latin-1").lower(), options


def _too_many_bytes(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body has more than {max_bytes} bytes", param="body")
