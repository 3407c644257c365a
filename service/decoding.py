"""From encoded bytes to the network's pixels, on whichever thread is asked: a lane's, or one of a pool."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from bundle.decode import MODES
from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.preprocess import preprocess
from service.batcher import Batcher, Done
from service.programs import Item, Operation
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

        An item that has its pixels stays as it is. Raises what `bundle.preprocess.preprocess` raises.
        """
        if not isinstance(item.image, bytes):
            return item
        start = time.perf_counter()
        pixels = preprocess(
            item.image, self._spec, channels=self._channels, max_pixels=self._max_pixels, formats=self._formats
        )
        return Item(pixels, item.ids_keep, item.ids_restore, time.perf_counter() - start)


def make_decoder(manifest: Manifest, settings: Settings) -> Decoder:
    """Within the limits that the settings give. BundleError as from Decoder."""
    return Decoder(manifest, max_pixels=settings.max_pixels, formats=settings.allowed_formats)


class DecodePool:
    """Decodes beside a device, in the order of `Batcher`: operations take turns, the most urgent deadline goes first,
    what was cancelled or is too late is dropped.

    Only as far ahead as the device needs: `ahead()` images of an operation, asked anew for every image, are decoded or
    at the device at most. So decoding takes no core from a model that has enough, and pixels take bounded memory.

    Make it inside the event loop; its methods are for that loop's thread.
    """

    def __init__(self, decode: Callable[[Item], Item], *, threads: int, ahead: Callable[[], int]) -> None:
        self.threads = threads
        self._wanted = ahead
        self._batcher: Batcher[Operation, Item, Item] = Batcher(
            lambda _, items: [decode(item) for item in items], lanes=threads, max_batch=1, kind_of=lambda o: o,
            window=self._window(), name="decode",
        )  # fmt: skip

    @asynccontextmanager
    async def decoded(self, operation: Operation, item: Item, *, deadline: float) -> AsyncIterator[Done[Item]]:
        """The item with pixels. It counts as ahead until the block is left.

        Raises what `decode` does, DeadlineExceeded if no thread was free in time, Unavailable once closed.
        """
        self._batcher.widen(self._window())
        future = self._batcher.submit(operation, item, deadline=deadline)
        try:
            yield await future
        finally:
            # asked of the future, as a task may be cancelled between its result and the next step
            if not future.cancelled() and future.exception() is None:
                self._batcher.give_back(operation)

    @property
    def stalled_s(self) -> float:
        """Seconds that the longest of the decodings now running has taken; infinite once a thread has died."""
        return self._batcher.longest_call_s if self._batcher.alive else float("inf")

    async def close(self, *, patience_s: float = float("inf")) -> None:
        """As Batcher.close."""
        await self._batcher.close(patience_s=patience_s)

    def _window(self) -> int:
        """Room for every thread beyond what the device needs: what is being decoded is not there yet."""
        return self._wanted() + self.threads
