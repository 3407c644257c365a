"""python -m training.pack: decode once, keep uint8 pixels of one size in shards, and report what could not be read."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidInput
from bundle.manifest import Preprocess
from bundle.preprocess import image_size, preprocess
from training.cli import parse
from training.errors import TrainingError, run_command
from training.packed import CORRUPT_FILE, LABELS_FILE, NO_LABEL, PACK_FILE, PackedDataset, PackInfo
from training.progress import track
from training.recipes import choose_recipe
from training.sources import Sample, Source, open_source

_CHUNK = 256  # images in flight
_SHARD_BYTES = 512 * 2**20
_MAX_PIXELS = 500_000_000  # one's own files may be larger than what a service accepts from strangers


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Pack a folder of images or Parquet files into shards of uint8 pixels."""

    data: Path
    """A folder of images (sub-folders are classes), a .parquet file, or a folder of them."""
    out: Path
    """The folder to write."""
    name: str | None = None
    """What the data is called in run.json and in a bundle's manifest. Default: the source's name."""
    size: int | None = None
    """Side in pixels of the square that an image is scaled to cover and cut to. Default: by the images' size."""
    width: int | None = None
    """Width in pixels, where it differs from the height, which is then --size."""
    channels: Literal[1, 3, 4] = 3
    """1 = grey, 3 = RGB, 4 = RGBA."""

    def __post_init__(self) -> None:
        for name in ("size", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if self.width is not None and self.size is None:
            raise ValueError("--width goes with --size, which is then the height")


class _Origin(NamedTuple):
    """What the data is called, and the path that it was read from."""

    name: str
    path: str


@dataclass
class _Statistics:
    """Running sums of u8 pixels, exact in 64-bit integers."""

    channels: int
    count: int = 0
    total: NDArray[np.uint64] = field(init=False)
    squares: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.channels, np.uint64)
        self.squares = np.zeros(self.channels, np.uint64)

    def add(self, image: NDArray[np.uint8]) -> None:
        values = image.reshape(-1, self.channels).astype(np.uint32)
        self.count += len(values)
        self.total += values.sum(axis=0, dtype=np.uint64)
        self.squares += (values * values).sum(axis=0, dtype=np.uint64)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """In 0..1 units. A constant channel gets a std of 1/255, since it is divided by."""
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 1.0))
        return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def pack(
    data: Path, out: Path, *, name: str | None = None, size: tuple[int, int] | None = None, channels: int = 3
) -> PackedDataset:
    """Pack `data` into `out` and open it. size: (height, width) in pixels, None = by the images' own size.

    The folder appears under its name only when it is whole. Raises TrainingError for an empty source, one without a
    readable image, or an existing `out`.
    """
    if out.exists():
        raise TrainingError(f"{out} exists; remove it or choose another --out")
    source = open_source(data)
    size = size or choose_recipe(_median_side(source)).pack_size
    staging = out.with_name(out.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    info = _write_shards(source, staging, size, channels, _Origin(name or source.name, str(data)))
    (staging / PACK_FILE).write_text(json.dumps(asdict(info), indent=2) + "\n")
    staging.rename(out)
    return PackedDataset(out)


class _ShardWriter:
    """Collects images and writes them out whenever a shard is full. shards: file -> number of images."""

    def __init__(self, folder: Path, image_bytes: int) -> None:
        self.shards: dict[str, int] = {}
        self._folder = folder
        self._per_shard = max(1, _SHARD_BYTES // image_bytes)
        self._pending: list[NDArray[np.uint8]] = []

    def add(self, image: NDArray[np.uint8]) -> None:
        self._pending.append(image)
        if len(self._pending) == self._per_shard:
            self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        name = f"pixels-{len(self.shards):05d}.npy"
        np.save(self._folder / name, np.stack(self._pending))
        self.shards[name] = len(self._pending)
        self._pending.clear()


def _write_shards(source: Source, folder: Path, size: tuple[int, int], channels: int, origin: _Origin) -> PackInfo:
    spec = Preprocess(resize=size, crop=size, mean=(0.0,) * channels, std=(1.0,) * channels)
    writer = _ShardWriter(folder, size[0] * size[1] * channels)
    statistics, labels, num_corrupt = _Statistics(channels), list[int](), 0
    with (folder / CORRUPT_FILE).open("w") as report:
        for sample, result in _decoded(source, spec, channels):
            if isinstance(result, InvalidInput):
                report.write(json.dumps({"name": sample.name, "error": str(result)}) + "\n")
                num_corrupt += 1
                continue
            statistics.add(result)
            writer.add(result)
            labels.append(NO_LABEL if sample.label is None else sample.label)
    if not labels:
        raise TrainingError(f"none of {num_corrupt} images could be read; see {folder / CORRUPT_FILE}")
    writer.flush()
    np.save(folder / LABELS_FILE, np.array(labels, np.int64))
    mean, std = statistics.mean_std()
    return PackInfo(
        name=origin.name, source=origin.path, size=size, channels=channels, num_images=len(labels),
        num_corrupt=num_corrupt, shards=writer.shards, classes=source.classes, mean=mean, std=std,
    )  # fmt: skip


def _decoded(
    source: Source, spec: Preprocess, channels: int
) -> Iterator[tuple[Sample, NDArray[np.uint8] | InvalidInput]]:
    """Every sample in order with its pixels, or with the reason why there are none; decoding runs on all cores."""

    def decode(sample: Sample) -> NDArray[np.uint8] | InvalidInput:
        try:
            return preprocess(sample.data, spec, channels=channels, max_pixels=_MAX_PIXELS)
        except InvalidInput as e:
            return e

    samples = iter(source)
    with track("packing", len(source)) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(itertools.islice(samples, _CHUNK)):
            yield from zip(chunk, pool.map(decode, chunk), strict=True)
            bar.advance(len(chunk))


def _median_side(source: Source) -> int:
    """The median of the shorter sides of the first images that can be read, in pixels."""
    sides = []
    for sample in itertools.islice(source, 64):
        try:
            sides.append(min(image_size(sample.data)))
        except InvalidInput:
            continue
    if not sides:
        raise TrainingError("none of the first 64 images could be read; is this a folder of images?")
    return int(np.median(sides))


def main() -> None:
    config = parse(PackConfig, "training.pack")
    size = None if config.size is None else (config.size, config.width or config.size)
    packed = pack(config.data, config.out, name=config.name, size=size, channels=config.channels)
    info = packed.info
    print(f"{config.out}: {info.num_images} images of {info.size[0]}x{info.size[1]}, {info.num_corrupt} unreadable")
    if info.num_corrupt:
        print(f"the unreadable ones are listed in {config.out / CORRUPT_FILE}")


if __name__ == "__main__":
    run_command(main)
