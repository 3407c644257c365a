"""Packed sets of noise, in the format of training.pack, for benchmarks that ask how fast and not how well."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sources.base import PACK_FILE
from training.packed import LABELS_FILE, PackInfo


def write_pack(
    folder: Path,
    *,
    num_images: int,
    size: tuple[int, int],
    channels: int = 3,
    num_classes: int = 10,
    num_shards: int = 1,
) -> Path:
    """Noise, its labels at random. size: (height, width) in pixels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    shards: dict[str, int] = {}
    for part in np.array_split(np.arange(num_images), num_shards):
        name = f"pixels-{len(shards):05d}.npy"
        np.save(folder / name, rng.integers(0, 256, (len(part), *size, channels), np.uint8))
        shards[name] = len(part)
    np.save(folder / LABELS_FILE, rng.integers(0, num_classes, num_images))
    info = PackInfo(
        name="noise", source="noise", size=size, channels=channels, num_images=num_images, num_corrupt=0, shards=shards,
        classes=tuple(str(i) for i in range(num_classes)), mean=(0.5,) * channels, std=(0.29,) * channels,
    )  # fmt: skip
    (folder / PACK_FILE).write_text(json.dumps(asdict(info)) + "\n")
    return folder
