"""Memory that a worker shares with its devices: slots of one size, each for one image and its result.

    pixels u8[H, W, C] | ids_keep i64[L] | ids_restore i64[L] | values f32[V]

H x W pixels of C channels and L patches are the bundle's, V its longest result. Every part begins at a multiple of 64
bytes and every slot at a page, so a slot that was never used takes no memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bundle.errors import Overloaded
from bundle.manifest import Manifest
from service.cache import Vector
from service.ipc.framing import ProtocolError
from service.programs import FeatureName, Program

_LINE = 64  # bytes of a cache line
_TEXT_BYTES = 1024  # least room for the text of an error, which stands in the place of the values


@dataclass(frozen=True)
class Layout:
    """Where the parts of a slot are. `max_values`: V."""

    image_shape: tuple[int, int, int]
    num_patches: int
    max_values: int

    @classmethod
    def of(cls, manifest: Manifest) -> Layout:
        """Room for the longest result that any program of the bundle has."""
        model = manifest.model
        programs = [Program("embed", model.num_patches, get_args(FeatureName))]
        if manifest.can_classify:
            programs.append(Program("classify", model.num_patches))
        if manifest.can_reconstruct:
            programs.append(Program("reconstruct", model.num_patches))
        longest = max(program.num_values(manifest) for program in programs)
        return cls((*model.image_size, model.channels), model.num_patches, max(longest, _TEXT_BYTES // 4))

    @property
    def ids_keep(self) -> int:
        """Bytes from the slot's start; the pixels are at 0."""
        height, width, channels = self.image_shape
        return _up(height * width * channels, _LINE)

    @property
    def ids_restore(self) -> int:
        return self.ids_keep + _up(8 * self.num_patches, _LINE)

    @property
    def values(self) -> int:
        return self.ids_restore + _up(8 * self.num_patches, _LINE)

    @property
    def slot_bytes(self) -> int:
        return _up(self.values + 4 * self.max_values, mmap.PAGESIZE)


class Arena:
    """`num_slots` slots in memory behind the file `fd`, which stays the caller's. The arrays are views of it."""

    def __init__(self, fd: int, layout: Layout, num_slots: int) -> None:
        self.layout = layout
        self.num_slots = num_slots
        num_bytes = num_slots * layout.slot_bytes
        if num_slots < 1 or os.fstat(fd).st_size != num_bytes:
            raise ProtocolError(f"{os.fstat(fd).st_size} bytes of shared memory, {num_bytes} expected")
        self._bytes = np.frombuffer(mmap.mmap(fd, num_bytes), np.uint8)
        self._num_pixels = int(np.prod(layout.image_shape))
        self._stride = layout.slot_bytes
        self._keep_at, self._restore_at, self._values_at = layout.ids_keep, layout.ids_restore, layout.values

    def pixels(self, slot: int) -> NDArray[np.uint8]:
        """[H, W, C]"""
        start = slot * self._stride
        return self._bytes[start : start + self._num_pixels].reshape(self.layout.image_shape)

    def ids_keep(self, slot: int, num_keep: int) -> NDArray[np.int64]:
        """[K]"""
        return self._part(slot, self._keep_at, 8 * num_keep).view(np.int64)

    def ids_restore(self, slot: int) -> NDArray[np.int64]:
        """[L]"""
        return self._part(slot, self._restore_at, 8 * self.layout.num_patches).view(np.int64)

    def values(self, slot: int, length: int) -> Vector:
        """The first `length` of the slot's values."""
        return self._part(slot, self._values_at, 4 * length).view(np.float32)

    def write_text(self, slot: int, text: str) -> int:
        """Put it in the place of the values, cut where they end; the bytes that it takes."""
        body = text.encode()[: 4 * self.layout.max_values]
        self._part(slot, self._values_at, len(body))[:] = np.frombuffer(body, np.uint8)
        return len(body)

    def read_text(self, slot: int, length: int) -> str:
        return self._part(slot, self._values_at, length).tobytes().decode(errors="replace")

    def _part(self, slot: int, offset: int, num_bytes: int) -> NDArray[np.uint8]:
        start = slot * self._stride + offset
        return self._bytes[start : start + num_bytes]


def open_memory(num_bytes: int) -> int:
    """A file in memory without a name, as its descriptor. OSError where there is no room for it.

    Not in /dev/shm, of which a container has 64 MB unless told otherwise. What was never written to takes no memory.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("maeve-arena", os.MFD_CLOEXEC)
        os.ftruncate(fd, num_bytes)
        return fd
    with tempfile.TemporaryFile() as file:
        file.truncate(num_bytes)
        return os.dup(file.fileno())


class Slots:
    """Which slots of an arena are free. The one given back last is taken first: its memory is warm."""

    def __init__(self, num_slots: int) -> None:
        self._free = list(range(num_slots))[::-1]
        self.num_slots = num_slots

    @property
    def taken(self) -> int:
        return self.num_slots - len(self._free)

    def take(self) -> int:
        """Overloaded if none is free."""
        if not self._free:
            raise Overloaded(f"all {self.num_slots} places are taken", retry_after_s=1.0)
        return self._free.pop()

    def give(self, slot: int) -> None:
        self._free.append(slot)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
