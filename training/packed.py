"""Packed data sets: uint8 pixels of one size in .npy shards, mapped into memory, and the labels beside them.

Letters: N images of the set, B of a batch, S_h x S_w pixels, C channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sources.base import PACK_FILE
from training.errors import TrainingError

LABELS_FILE = "labels.npy"
CORRUPT_FILE = "corrupt.jsonl"
NO_LABEL = -1
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PackInfo:
    """`pack.json`. size: (height, width) of every image; mean, std: per channel, 0..1 units; shards: file -> images;
    fingerprint: of the source's files, where it is known.
    """

    name: str
    size: tuple[int, int]
    channels: int
    num_images: int
    num_corrupt: int
    shards: dict[str, int]
    classes: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    fingerprint: str | None = None
    version: int = VERSION

    @staticmethod
    def from_json(document: dict[str, Any]) -> PackInfo:
        """TypeError or AttributeError where it is no such document."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return PackInfo(**fields)

    @staticmethod
    def read(folder: Path) -> PackInfo:
        try:
            info = PackInfo.from_json(json.loads((folder / PACK_FILE).read_text()))
            if info.version != VERSION:
                raise ValueError(f"its version is {info.version}, not {VERSION}")
            return info
        except (OSError, AttributeError, TypeError, ValueError) as e:
            raise TrainingError(f"{folder} is not a packed data set: {e}; make one with python -m training.pack") from e


class PackedDataset:
    """Random access to a packed set. labels: i64 [N], NO_LABEL where there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = PackInfo.read(folder)
        try:
            self._shards = [np.load(folder / name, mmap_mode="r") for name in self.info.shards]
            self.labels: NDArray[np.int64] = np.load(folder / LABELS_FILE)
        except (OSError, EOFError, ValueError) as e:
            raise TrainingError(f"{folder} is incomplete: {e}; pack it again") from e
        self._starts = np.cumsum([0, *(len(s) for s in self._shards)])
        if self._starts[-1] != self.info.num_images or len(self.labels) != self.info.num_images:
            raise TrainingError(
                f"{folder} is incomplete: {self._starts[-1]} of {self.info.num_images} images; pack it again"
            )

    def __len__(self) -> int:
        return self.info.num_images

    def pixels(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """ids: i64 [B] -> u8 [B, S_h, S_w, C]."""
        out = np.empty((len(ids), *self.info.size, self.info.channels), np.uint8)
        shard_of = np.searchsorted(self._starts, ids, side="right") - 1
        for shard in np.unique(shard_of):
            rows = np.flatnonzero(shard_of == shard)
            out[rows] = self._shards[shard][ids[rows] - self._starts[shard]]
        return out


@lru_cache(maxsize=2)
def epoch_order(num_images: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """The order of one epoch, a function of (seed, epoch) alone, so that a resumed run sees what it would have seen."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)
