"""From what --data names to a packed set, and to the part of it that a run uses."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundle.errors import SourceError
from bundle.preprocess import center_crop
from sources import location, open_source
from sources.base import PACK_FILE
from training.decode import default_channels, median_side
from training.errors import TrainingError
from training.pack import pack
from training.packed import NO_LABEL, PackedDataset, PackInfo
from training.recipes import choose_recipe
from training.run import CHECKPOINT_FILE
from training.stream import STREAM_FILE, StreamingDataset, open_stream

Ids = NDArray[np.int64]


def open_data(
    data: str | Path, cache: Path, *, size: tuple[int, int] | None = None, channels: int | None = None
) -> PackedDataset:
    """A packed folder as it is; any other source is packed into `cache`, or found there from an earlier start.

    Raises TrainingError where it is not of the `size` and `channels` asked for; None: as it is, RGB when packing
    images.
    """
    if (Path(data) / PACK_FILE).is_file():
        packed = PackedDataset(Path(data))
    elif (cache / PACK_FILE).is_file():
        packed = PackedDataset(cache)
        if packed.info.source != location(data):
            raise TrainingError(f"{cache} was packed from {packed.info.source}, not {data}; remove it to pack again")
        if not (cache.parent / CHECKPOINT_FILE).exists() and _changed(data, packed):
            raise TrainingError(f"{data} has other files now than {cache} was packed from; remove that to pack again")
    else:
        packed = pack(data, cache, size=size, channels=channels)
    info = packed.info
    if info.num_corrupt:
        print(f"{info.num_corrupt} of the images could not be read, see {packed.folder}/corrupt.jsonl", file=sys.stderr)
    if size is not None and info.size != size:
        raise TrainingError(
            f"{packed.folder} holds images of {info.size}, {size} are needed; pack with --size {size[0]}"
        )
    if channels is not None and info.channels != channels:
        raise TrainingError(
            f"{packed.folder} holds {info.channels} channels, {channels} are needed; pack images with "
            f"--channels {channels}, or pre-train on arrays of {info.channels}"
        )
    return packed


def _changed(data: str | Path, packed: PackedDataset) -> bool:
    """Whether the source, if it is still there, is another one than was packed."""
    try:
        return packed.info.fingerprint not in (None, open_source(data).fingerprint())
    except SourceError:
        return False


def open_images(
    data: str | Path,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    stream: bool = False,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    check: Callable[[PackInfo, int], None],
) -> PackedDataset | StreamingDataset:
    """What a run of `out` trains on: packed as by `open_data`, or streamed where that is asked for, or where the disk
    has no room for the pack. Raises TrainingError where the source cannot be used.

    check: is told, before hours go into packing, what the pack will be, but for its statistics, and the images' own
    shorter side in pixels; it raises where the run could not be.
    """
    folder = out / "stream"
    packed = (Path(data) / PACK_FILE).is_file() or (out / "pack").exists() or (out / "pack.partial").exists()
    begun = (folder / STREAM_FILE).is_file()
    if not packed and not begun:
        foreseen, side = _foreseen(data, size)
        check(foreseen, side)
        stream = stream or not _fits_disk(foreseen, out)
    if stream and (Path(data) / PACK_FILE).is_file():
        raise TrainingError(f"{data} is packed already; leave out --feed stream")
    if not (stream or begun):
        return open_data(data, out / "pack", size=size)
    return open_stream(data, folder, size=size, seed=seed, rank=rank, world_size=world_size)


def _foreseen(data: str | Path, size: tuple[int, int] | None) -> tuple[PackInfo, int]:
    """A pack of this source as far as it is known before it is made, and the shorter side of its images."""
    source = open_source(data)
    side, channels = median_side(source), default_channels(source)
    info = PackInfo(
        name=source.name, source=location(data), size=size or choose_recipe(side).pack_size, channels=channels,
        num_images=source.known_length or 0, num_corrupt=0, shards={}, classes=source.classes,
        mean=(0.5,) * channels, std=(0.5,) * channels,
    )  # fmt: skip
    return info, side


def _fits_disk(pack: PackInfo, out: Path) -> bool:
    """Whether a pack of as many images as are known of would leave a tenth of the free space. Says so where not."""
    needed = pack.num_images * pack.size[0] * pack.size[1] * pack.channels
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed <= 0.9 * free:
        return True
    print(
        f"the pack would take {needed / 1e9:.0f} GB of {free / 1e9:.0f} GB free: the images are streamed",
        file=sys.stderr,
    )
    return False


def examples(images: PackedDataset | StreamingDataset, num: int) -> NDArray[np.uint8]:
    """The same images every time, all over a packed set, the first of a stream: u8 [n, S_h, S_w, C], n <= num."""
    if isinstance(images, StreamingDataset):
        return images.first(num)
    return images.pixels(np.linspace(0, len(images) - 1, min(num, len(images))).astype(np.int64))


def center_batch(packed: PackedDataset, ids: Ids, size: tuple[int, int], device: torch.device) -> Tensor:
    """What evaluation sees: the centres of these images, u8 [N, C, H, W], the very pixels that the service would make.

    Raises TrainingError where the set was packed smaller than `size`.
    """
    if packed.info.size[0] < size[0] or packed.info.size[1] < size[1]:
        raise TrainingError(f"{packed.folder} holds images of {packed.info.size}, smaller than the network's {size}")
    return center_pixels(packed.pixels(ids), size, device)


def center_pixels(pixels: NDArray[np.uint8], size: tuple[int, int], device: torch.device) -> Tensor:
    """u8 [N, S_h, S_w, C] -> their centres, u8 [N, C, H, W] on the device."""
    centers = np.ascontiguousarray(center_crop(pixels, size))
    return torch.from_numpy(centers).to(device).permute(0, 3, 1, 2)


def require_classes(packed: PackedDataset) -> tuple[str, ...]:
    """The class names. Raises TrainingError unless every image has a label of at least two classes."""
    classes = packed.info.classes
    if classes is None or len(classes) < 2:
        raise TrainingError(
            f"{packed.info.source} has no labels of two classes: use one sub-folder per class, or a column 'label'"
        )
    if (missing := int((packed.labels == NO_LABEL).sum())) > 0:
        raise TrainingError(f"{missing} images of {packed.info.source} have no label; give every image one")
    return classes


def open_test(data: str | Path, out: Path, packed: PackedDataset, classes: tuple[str, ...]) -> PackedDataset:
    """The test set at the training set's pack size. Raises TrainingError where its classes are others."""
    test = open_data(data, out / "pack-test", size=packed.info.size, channels=packed.info.channels)
    if require_classes(test) != classes:
        raise TrainingError(f"{data} has other classes than the training set; name the sub-folders alike")
    return test


def split_labeled(packed: PackedDataset, label_fraction: float, val_fraction: float, seed: int) -> tuple[Ids, Ids]:
    """(training, validation): the labels that a run may use, and those of them that are held out."""
    lone = np.flatnonzero(np.bincount(packed.labels) == 1)
    if len(lone) > 0:
        names = ", ".join((packed.info.classes or ())[i] for i in lone[:5].tolist())
        raise TrainingError(
            f"{packed.info.source}: a class with a single image cannot be learned and checked: {names}; give it a "
            "second one or leave it out"
        )
    rng = np.random.default_rng(seed)
    return split_validation(packed.labels, labeled_subset(packed.labels, label_fraction, rng), val_fraction, rng)


def labeled_subset(labels: Ids, fraction: float, rng: np.random.Generator) -> Ids:
    """A random share of each class, at least one image of each: sorted i64 ids."""
    if not 0 < fraction <= 1:
        raise ValueError(f"--label-fraction must lie in (0, 1], got {fraction}")
    chosen = []
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(ids)[: max(1, round(fraction * len(ids)))])
    return np.sort(np.concatenate(chosen))


def split_validation(labels: Ids, ids: Ids, fraction: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(training, validation): a share of each class is held out; a class with a single image stays in training."""
    if not 0 < fraction < 1:
        raise ValueError(f"--val-fraction must lie between 0 and 1, got {fraction}")
    held_out = []
    for label in np.unique(labels[ids]):
        own = rng.permutation(ids[labels[ids] == label])
        held_out.append(own[: min(len(own) - 1, max(1, round(fraction * len(own))))])
    validation = np.sort(np.concatenate(held_out))
    if len(validation) == 0:
        raise TrainingError("no class has two images, so none can be held out for validation; label more images")
    return np.setdiff1d(ids, validation), validation
