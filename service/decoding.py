"""From encoded bytes to the network's pixels, on whichever thread is asked: a lane's, or one of a pool."""

from __future__ import annotations

import time

from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.preprocess import MODES, preprocess
from service.programs import Item


class Decoder:
    """Decodes for one bundle; used from any thread. BundleError if the bundle's images cannot come from image files."""

    def __init__(self, manifest: Manifest, *, max_pixels: int) -> None:
        if manifest.model.channels not in MODES:
            raise BundleError(f"images of {manifest.model.channels} channels cannot be decoded, only {sorted(MODES)}")
        self._spec = manifest.preprocess
        self._channels = manifest.model.channels
        self._max_pixels = max_pixels

    def __call__(self, item: Item) -> Item:
        """The same with pixels [H, W, C] in the place of the encoded bytes, and the seconds that it took.

        An item that has its pixels stays as it is. Raises what `bundle.preprocess.preprocess` raises.
        """
        if not isinstance(item.image, bytes):
            return item
        start = time.perf_counter()
        pixels = preprocess(item.image, self._spec, channels=self._channels, max_pixels=self._max_pixels)
        return Item(pixels, item.ids_keep, item.ids_restore, time.perf_counter() - start)
