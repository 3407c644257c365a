"""What the clients share and neither does by itself: images into bodies, answers into arrays, when to ask again.

Letters: N images, D vector size, K patches kept.
"""

from __future__ import annotations

import io
import random
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

Pooling = Literal["cls", "mean", "patches"]
Params = Mapping[str, str | Sequence[str]]  # several values of one name
Floats = NDArray[np.floating[Any]]

_RETRIED = (429, 503)
_OUR_FAULT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)  # nothing was sent, nor would be next time
_BACKOFF_S, _BACKOFF_MAX_S = 0.1, 5.0
_PART_BYTES = 256  # what multipart puts around an image
_PNG_KINDS = {1: 0, 3: 2, 4: 6}  # channels -> colour type (https://www.w3.org/TR/png-3/#11IHDR)


class ClientError(Exception):
    """Root of every error of the clients."""


class Unreachable(ClientError):
    """No answer: no connection, one that broke, or none in time."""


class ServiceError(ClientError):
    """An answer that is an error. `type`, `param`: as in docs/errors.md. `index`: the image to blame, counted in the
    list that the caller gave; None where none is.
    """

    def __init__(self, message: str, *, status: int, type: str, param: str | None, index: int | None) -> None:  # noqa: A002
        super().__init__(message)
        self.status = status
        self.type = type
        self.param = param
        self.index = index


class Rejected(ServiceError):
    """The request, or an image of it, is at fault (4xx): asking again would not help."""


class Busy(ServiceError):
    """Too much to do, stopping or starting (429, 503) for as long as the client was to wait."""


class Failed(ServiceError):
    """The service failed, or was not done in time (5xx)."""


class PillowImage(Protocol):
    """An image of Pillow, which need not be installed."""

    @property
    def mode(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None: ...  # noqa: A002

    def convert(self, mode: str | None = None) -> Any: ...


Image = Path | bytes | NDArray[np.uint8] | PillowImage


@dataclass(frozen=True)
class Call:
    """A request. `offset`: the place of its first image in the caller's list. `images` are read when it is sent."""

    method: str
    path: str
    params: Params = field(default_factory=dict)
    accept: str = "application/json"
    images: Sequence[Image] = ()
    offset: int = 0

    def arguments(self) -> dict[str, Any]:
        """For httpx's `request`. OSError for a file that cannot be read."""
        common: dict[str, Any] = {"method": self.method, "url": self.path, "params": self.params}
        bodies = [encode_image(image) for image in self.images]
        if len(bodies) == 1:
            return common | {"content": bodies[0]}
        return common | ({"files": [("file", body) for body in bodies]} if bodies else {})

    def headers(self) -> dict[str, str]:
        single = {"content-type": "application/octet-stream"} if len(self.images) == 1 else {}
        return {"accept": self.accept, **single}


class Attempts:
    """One call's tries within `timeout_s`."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = clock() + timeout_s
        self._failed = 0

    @property
    def left_s(self) -> float:
        return max(0.001, self._until - self._clock())

    def timeout_header(self) -> dict[str, str]:
        """So that the service drops what nobody waits for any more; a little less, for its 504 to arrive in time."""
        return {"x-request-timeout-ms": f"{self.left_s * 950:.1f}"}

    def pause_s(self, outcome: httpx.Response | httpx.TransportError, offset: int) -> float:
        """Seconds until the next try. ClientError if there is to be none: it would not help, or be too late."""
        if isinstance(outcome, httpx.Response):
            error: ClientError = error_of(outcome, offset)
            hopeless = outcome.status_code not in _RETRIED
        else:
            error, hopeless = Unreachable(f"{type(outcome).__name__}: {outcome}"), isinstance(outcome, _OUR_FAULT)
        asked_s = _retry_after_s(outcome) if isinstance(outcome, httpx.Response) else None
        if asked_s is None:
            asked_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2**self._failed)
        self._failed += 1
        pause_s = asked_s * random.uniform(1, 1.5)  # noqa: S311 - so that those refused together do not come together
        if hopeless or self._clock() + pause_s >= self._until:
            raise error
        return pause_s


def plan(
    path: str,
    params: Params,
    accept: str,
    images: Sequence[Image],
    *,
    per_request: int,
    max_bytes: int,
) -> Iterator[Call]:
    """Calls of at most so many images and bytes, in order. An image of more bytes goes alone, to be refused.

    OSError for a file that is not there; nothing is read yet.
    """
    start, size = 0, 0
    for i, image in enumerate(images):
        num_bytes = _size(image) + _PART_BYTES
        if i > start and (i - start >= per_request or size + num_bytes > max_bytes):
            yield Call("POST", path, params, accept, images[start:i], start)
            start, size = i, 0
        size += num_bytes
    yield Call("POST", path, params, accept, images[start:], start)


def check_images(images: Iterable[Image]) -> list[Image]:
    """TypeError or ValueError for what is no list of images."""
    if isinstance(images, str | bytes | Path | np.ndarray) or not isinstance(images, Iterable):
        raise TypeError(f"give a list of images, not {type(images).__name__}")
    checked = list(images)
    if not checked:
        raise ValueError("give at least one image")
    for i, image in enumerate(checked):
        if isinstance(image, str):
            raise TypeError(f"image {i} is a string; give pathlib.Path({image[:80]!r}) for a file")
        if isinstance(image, np.ndarray):
            _check_array(image, i)
        elif not isinstance(image, Path | bytes) and not hasattr(image, "save"):
            raise TypeError(f"image {i} is {type(image).__name__}, not a Path, bytes, a uint8 array or a Pillow image")
    return checked


def encode_image(image: Image) -> bytes:
    """Files and bytes as they are; pixels as PNG, without loss."""
    if isinstance(image, Path):
        return image.read_bytes()
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        return _png(image)
    out = io.BytesIO()
    known = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
    known.save(out, "PNG", compress_level=1)
    return out.getvalue()


def tensor_of(response: httpx.Response) -> Floats:
    """[N, D], or [N, K, D] for patches."""
    shape = [int(size) for size in response.headers["maeve-shape"].split(",")]
    dtype = np.dtype(response.headers["maeve-dtype"])
    little = np.frombuffer(response.content, dtype.newbyteorder("<"))
    return little.astype(dtype, copy=False).reshape(shape)


def error_of(response: httpx.Response, offset: int) -> ServiceError:
    """`offset`: what to add to the index of an image."""
    status = response.status_code
    kind = Busy if status in _RETRIED else Rejected if status < 500 else Failed
    try:
        told = response.json()["error"]
        message, name, param = str(told["message"]), str(told["type"]), told["param"]
    except (ValueError, KeyError, TypeError):  # somebody else's answer: a proxy's
        return kind(f"HTTP {status}: {response.text[:200]}", status=status, type="http_error", param=None, index=None)
    place = re.fullmatch(r"images\[(\d+)\]", param or "")
    if place is None:
        return kind(message, status=status, type=name, param=param, index=None)
    index = int(place[1]) + offset
    message = message.replace(f"image {place[1]}", f"image {index}", 1)
    return kind(message, status=status, type=name, param=f"images[{index}]", index=index)


def _retry_after_s(response: httpx.Response) -> float | None:
    """In seconds alone, as the service sends it."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _size(image: Image) -> int:
    """Bytes of the encoded image; of pixels, at most about so many."""
    if isinstance(image, Path):
        return image.stat().st_size
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, np.ndarray):
        return int(image.nbytes + image.shape[0] + 1024)
    width, height = image.size
    num_bytes: int = width * height * 4 + height + 1024
    return num_bytes


def _check_array(image: NDArray[np.uint8], index: int) -> None:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in _PNG_KINDS or 0 in image.shape:
        raise ValueError(
            f"image {index} must be uint8 [H, W] or [H, W, 1, 3 or 4], got {image.dtype} {list(image.shape)}"
        )


def _png(image: NDArray[np.uint8]) -> bytes:
    """[H, W] or [H, W, C] -> PNG, every row unfiltered."""
    pixels = image if image.ndim == 3 else image[..., None]  # [H, W, C]
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # a row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_KINDS[channels], 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
