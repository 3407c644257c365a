"""python -m training.pack: decode once, keep uint8 pixels of one size in shards, and report what could not be read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bundle.cli.command import Command
from sources import NpyRange, Source, location, open_source
from sources.base import PACK_FILE
from training.decode import Decoder, decoded, default_channels, median_side
from training.errors import TrainingError, run_command
from training.packed import CORRUPT_FILE, PackedDataset
from training.progress import Bar, track
from training.recipes import choose_recipe
from training.shards import Plan, ShardWriter, tidy


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Decode images once into shards of uint8 pixels of one size.

    Interrupted, the same command goes on.
    """

    data: str | Path
    """A folder of images (sub-folders are classes) or .npy arrays, Parquet or tar shards by path or URL, cifar:DIR or
    stl10:DIR#SPLIT."""
    out: Path
    """The folder to write."""
    name: str | None = None
    """What the data is called in run.json and in a bundle's manifest. Default: the source's name."""
    size: int | None = None
    """Side in pixels of the square that an image is scaled to cover and cut to. Default: by the images' size."""
    width: int | None = None
    """Width in pixels, where it differs from the height, which is then --size. Default: as --size."""
    channels: int | None = None
    """1 = grey, 3 = RGB, 4 = RGBA. Default: 3, or what the arrays have."""
    npy_range: NpyRange | None = None
    """The values of .npy arrays that become 0 and 255; needed for other types than uint8. Default: 0 255."""
    workers: int | None = None
    """Threads that decode. Default: one for each core."""

    def __post_init__(self) -> None:
        for name in ("size", "width", "channels", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if self.width is not None and self.size is None:
            raise ValueError("--width goes with --size, which is then the height")
        if self.npy_range is not None and not self.npy_range[0] < self.npy_range[1]:
            raise ValueError(f"--npy-range must be LOW and a higher HIGH, got {self.npy_range}")


COMMAND = Command(
    config=PackConfig,
    module="training.pack",
    examples=(
        "python -m training.pack --data photos --out data/photos",
        "python -m training.pack --data photos --out data/photos-256 --size 256 --workers 8",
        "python -m training.pack --data cifar:downloads --out data/cifar10",
    ),
    page="docs/training.md",
    statuses={130: "stopped by Ctrl-C; the same command goes on with what is packed"},
)


def pack(
    data: str | Path,
    out: Path,
    *,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    npy_range: NpyRange | None = None,
    workers: int | None = None,
) -> PackedDataset:
    """Pack `data` into `out` and open it. size: (height, width) in pixels, None = by the images' own size.

    The folder appears under its name only when it is whole. Until then it is `out`.partial: the same call goes on
    with one that an earlier call left, and the result is the same to the byte. Raises TrainingError for an empty
    source, one without a readable image, a full disk, an existing `out`, or the beginning of another pack.
    """
    if out.exists():
        raise TrainingError(f"{out} exists; remove it or choose another --out")
    staging = out.with_name(out.name + ".partial")
    if not (staging / PACK_FILE).exists():
        source = open_source(data, npy_range=npy_range)
        size = size or choose_recipe(median_side(source)).pack_size
        decoder = Decoder(source, size, channels or default_channels(source))
        plan = Plan.make(location(data), source.fingerprint(), size, decoder.channels)
        with ShardWriter(staging, plan) as writer:
            _pack(source, decoder, writer, workers)
            writer.finish(name or source.name, source.classes)
    tidy(staging)
    staging.rename(out)
    return PackedDataset(out)


def _pack(source: Source, decoder: Decoder, writer: ShardWriter, workers: int | None) -> None:
    """Where the number of samples is not known, the bar counts chunks."""
    total, start = source.known_length, writer.progress.position
    done = start.chunk if total is None else writer.progress.num_images + writer.progress.num_corrupt
    with track("packing", len(source.lengths) if total is None else total, done=done) as bar:
        begun, num_images, chunk = time.monotonic(), writer.progress.num_images, start.chunk
        for part in decoded(source, decoder, start, workers):
            writer.add(part)
            rate = (writer.progress.num_images - num_images) / max(1e-9, time.monotonic() - begun)
            steps = part.end.chunk - chunk if total is None else len(part.labels) + len(part.corrupt)
            _show(bar, steps, rate, writer.progress.num_images if total is None else None)
            chunk = part.end.chunk
        if total is None:
            bar.advance(len(source.lengths) - chunk)


def _show(bar: Bar, steps: int, rate: float, num_images: int | None) -> None:
    count = "" if num_images is None else f"{num_images:,} images, "
    bar.note(f"{count}{rate:,.0f} img/s")
    bar.advance(steps)


def main() -> None:
    config = COMMAND.parse()
    size = None if config.size is None else (config.size, config.width or config.size)
    packed = pack(
        config.data, config.out, name=config.name, size=size, channels=config.channels,
        npy_range=config.npy_range, workers=config.workers,
    )  # fmt: skip
    info = packed.info
    print(f"{config.out}: {info.num_images} images of {info.size[0]}x{info.size[1]}, {info.num_corrupt} unreadable")
    if info.num_corrupt:
        print(f"the unreadable ones are listed in {config.out / CORRUPT_FILE}")


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on with what is packed")
