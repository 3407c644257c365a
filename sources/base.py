"""What every source is: samples in a fixed order, cut into chunks that can be read by themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidInput

PACK_FILE = "pack.json"  # tells a packed set, which is no source, from a folder of images
Data = bytes | NDArray[np.uint8] | InvalidInput


class Sample(NamedTuple):
    """name: for reports; label: an index into `classes`, a class's name where they are not known yet, or None.

    data: the encoded image, pixels u8 [H, W, C], or the reason why there are none.
    """

    name: str
    data: Data
    label: int | str | None


class Source(ABC):
    """Chunks are the unit of reading: in parallel, again after an interruption, and in another order every epoch.

    name: what the data is called. classes: in the order of the labels; None where there are none, or where only the
    samples tell. channels: of the samples' arrays; None for encoded images, which are converted to what is asked for.
    lengths: the number of samples in each chunk, None where only reading tells.
    """

    name: str
    classes: tuple[str, ...] | None = None
    channels: int | None = None
    lengths: Sequence[int | None]

    @abstractmethod
    def read(self, chunk: int) -> Iterator[Sample]:
        """The samples of one chunk, in order; always the same. Raises SourceError where it cannot be read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Differs where the samples differ in number or order, as far as can be told without reading them."""

    def count(self, chunk: int) -> int:
        """The number of samples of one chunk; reads it where nothing else tells."""
        length = self.lengths[chunk]
        return sum(1 for _ in self.read(chunk)) if length is None else length

    @property
    def known_length(self) -> int | None:
        """The number of samples, None where only reading tells."""
        known = [length for length in self.lengths if length is not None]
        return sum(known) if len(known) == len(self.lengths) else None

    def __len__(self) -> int:
        return sum(self.count(chunk) for chunk in range(len(self.lengths)))

    def __iter__(self) -> Iterator[Sample]:
        for chunk in range(len(self.lengths)):
            yield from self.read(chunk)


def label_index(label: int | None, classes: tuple[str, ...], name: str) -> int | None:
    """The label of sample `name`; -1 is how data sets with hidden labels say that there is none.

    Raises ValueError for a label without a class.
    """
    if label is None or label == -1:
        return None
    if not 0 <= label < len(classes):
        raise ValueError(f"{name} has label {label}, but there are {len(classes)} class names")
    return label
