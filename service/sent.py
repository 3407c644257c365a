"""What the engine is sent to work on, and the caches' keys of it."""

from __future__ import annotations

import asyncio
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from service.cache import digest_key, image_key
from service.programs import Item


class Shared:
    """An encoded image that several items of one request begin with, and that is decoded once for all of them.

    Whoever holds `turn` and finds no `pixels` sends the image encoded and puts here what comes back with the result;
    the others wait for it. So decoding has the queue, the deadline and the thread that it always has.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.turn = asyncio.Lock()
        self.pixels: NDArray[np.uint8] | None = None  # [H, W, C]

    @cached_property
    def digest(self) -> str:
        return sha256(self.data).hexdigest()


Sent = bytes | Item  # an encoded image, or one that brings its pixels or patches of its own


def num_bytes(image: Sent | Shared) -> int:
    """What making the image's key has to read."""
    data = image if isinstance(image, bytes) else image.data if isinstance(image, Shared) else image.image
    return len(data) if isinstance(data, bytes) else data.nbytes


def key_of(context: str, image: Sent | Shared) -> str:
    """The context has told the number of ids, so the two parts of an Item cannot be taken for others."""
    if isinstance(image, bytes):
        return image_key(context, image)
    if isinstance(image, Shared):
        return digest_key(context, image.digest)
    kind = "encoded" if isinstance(image.image, bytes) else "pixels"
    data = image.ids_keep.tobytes() + (image.image if isinstance(image.image, bytes) else image.image.tobytes())
    return image_key(f"{context}:{kind}", data)
