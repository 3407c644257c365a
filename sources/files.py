"""Folders: one file, one sample. Images in the usual formats, or .npy arrays of any number of channels."""

from __future__ import annotations

import os
from abc import abstractmethod
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidInput, SourceError
from sources.base import Data, Sample, Source
from sources.names import Names
from sources.trees import LocalTree

IMAGE_SUFFIXES = (
    ".bmp",
    ".gif",
    ".heic",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
NPY_SUFFIXES = (".npy",)
_FILES_PER_CHUNK = 256

NpyRange = tuple[float, float]


class Listing:
    """Paths below a folder in the order of their parts.

    classes: the first level's names, where every file lies below one of at least two.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self.root = root
        self._names, tops, starts = Names(), list[str](), array("q")
        loose = False
        for path in LocalTree(os.fspath(root)).walk(lambda name: name.lower().endswith(suffixes)):
            top, separator, _ = path.partition("/")
            loose = loose or not separator
            if not loose and (not tops or tops[-1] != top):
                tops.append(top)
                starts.append(len(self._names))
            self._names.append(path)
        self._starts = np.array(starts, np.int64)  # of the classes, whose files stand together
        self.classes = tuple(tops) if not loose and len(tops) > 1 else None

    def __len__(self) -> int:
        return len(self._names)

    def path(self, i: int) -> str:
        """Of one file, relative to the folder."""
        return self._names[i]

    def label(self, i: int) -> int | None:
        return None if self.classes is None else int(np.searchsorted(self._starts, i, side="right")) - 1

    def digest(self) -> str:
        return self._names.digest()


class _FileSource(Source):
    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self.name = listing.root.resolve().name
        self.classes = listing.classes
        count = len(listing)
        self.lengths = [min(_FILES_PER_CHUNK, count - i) for i in range(0, count, _FILES_PER_CHUNK)]

    def read(self, chunk: int) -> Iterator[Sample]:
        start = chunk * _FILES_PER_CHUNK
        for i in range(start, start + self.count(chunk)):
            path = self._listing.path(i)
            yield Sample(path, self._load(self._listing.root / path), self._listing.label(i))

    @abstractmethod
    def _load(self, file: Path) -> Data: ...


class ImageFolder(_FileSource):
    """Image files below a folder, sorted. With sub-folders and no loose image, each sub-folder is a class."""

    def fingerprint(self) -> str:
        return self._listing.digest()

    def _load(self, file: Path) -> Data:
        try:
            return file.read_bytes()
        except (FileNotFoundError, PermissionError) as e:  # of one file; anything else is the disk's or the network's
            return InvalidInput(f"the file could not be read: {e.strerror}")


class NpyFolder(_FileSource):
    """Arrays [H, W, C] or [H, W] below a folder, with classes as for images. uint8, or `value_range` -> 0..255."""

    def __init__(self, listing: Listing, value_range: NpyRange | None) -> None:
        super().__init__(listing)
        self._range = value_range
        self.channels = self._channels_of_first()

    def fingerprint(self) -> str:
        return f"{self._listing.digest()} {self._range}"

    def _load(self, file: Path) -> Data:
        try:
            values = np.load(file, allow_pickle=False)
        except (OSError, EOFError, ValueError) as e:
            return InvalidInput(f"not readable as .npy: {e}")
        if not isinstance(values, np.ndarray) or values.ndim not in (2, 3) or values.size == 0:
            return InvalidInput(f"an array of {getattr(values, 'shape', 'no')} is not [H, W, C] or [H, W]")
        values = values.reshape(*values.shape[:2], -1)  # [H, W, C]
        if self.channels is not None and values.shape[2] != self.channels:
            return InvalidInput(f"it has {values.shape[2]} channels, the first array has {self.channels}")
        return self._to_uint8(values, file)

    def _to_uint8(self, values: NDArray[np.generic], file: Path) -> Data:
        if values.dtype == np.uint8:
            return np.asarray(values, np.uint8)
        if values.dtype.kind not in "iuf":
            return InvalidInput(f"its values are {values.dtype}; uint8, other integers and floats are read")
        if self._range is None:
            raise SourceError(
                f"{file} holds {values.dtype}; say with python -m training.pack --npy-range LOW HIGH which values "
                "become 0 and 255"
            )
        low, high = self._range
        scaled = (values.astype(np.float32) - low) * (255 / (high - low))
        if not np.isfinite(scaled).all():
            return InvalidInput("it holds values that are not finite; fill them in first")
        pixels: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return pixels

    def _channels_of_first(self) -> int:
        for i in range(len(self._listing)):
            pixels = self._load(self._listing.root / self._listing.path(i))
            if not isinstance(pixels, InvalidInput | bytes):
                return int(pixels.shape[2])
        raise SourceError(f"none of the .npy files in {self._listing.root} could be read as [H, W, C] or [H, W]")
