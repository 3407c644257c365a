"""From encoded bytes to the network's pixels, on whichever thread is asked: a lane's, or one of a pool."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bundle.decode import MODES
from bundle.errors import BundleError
from bundle.formats import parse_formats
from bundle.manifest import Manifest
from bundle.preprocess import preprocess
from service.programs import Item
from service.settings import Settings


class Decoder:
    """Decodes for one bundle; used from any thread. `formats`: those allowed, None for the default ones.

    BundleError if the bundle's images cannot come from image files.
    """

    def __init__(self, manifest: Manifest, *, max_pixels: int, formats: Sequence[str] | None = None) -> None:
        if manifest.model.channels not in MODES:
            raise BundleError(f"images of {manifest.model.channels} channels cannot be decoded, only {sorted(MODES)}")
        self._spec = manifest.preprocess
        self._channels = manifest.model.channels
        self._max_pixels = max_pixels
        self._formats = formats

    def __call__(self, item: Item) -> Item:
        """The same with pixels [H, W, C] in the place of the encoded bytes, and the seconds that it took.

        Raises what `bundle.preprocess.preprocess` raises.
        """
        assert isinstance(item.image, bytes)
        start = time.perf_counter()
        pixels = preprocess(
            item.image, self._spec, channels=self._channels, max_pixels=self._max_pixels, formats=self._formats
        )
        return Item(pixels, item.ids_keep, item.ids_restore, time.perf_counter() - start)


def make_decoder(manifest: Manifest, settings: Settings) -> Decoder:
    """Within the limits that the settings give. BundleError as from Decoder."""
    formats = None if settings.formats is None else parse_formats(settings.formats)
    return Decoder(manifest, max_pixels=settings.max_pixels, formats=formats)
