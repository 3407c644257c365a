"""CIFAR's and STL-10's binary files, written as their authors' pages word it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def random_images(count: int, side: int, seed: int = 0) -> Pixels:
    """u8 [N, H, W, 3]"""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_cifar(file: Path, images: Pixels, labels: list[list[int]]) -> None:
    """One byte after the other, as cs.toronto.edu/~kriz/cifar.html words it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as f:
        for image, own in zip(images, labels, strict=True):
            f.write(bytes(own))
            for channel in range(3):
                for row in image[:, :, channel]:
                    f.write(row.tobytes())


def write_stl(file: Path, images: Pixels) -> None:
    """Each channel column by column, as cs.stanford.edu/~acoates/stl10 words it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as f:
        for image in images:
            for channel in range(3):
                for x in range(96):
                    f.write(image[:, x, channel].tobytes())
