"""The binary files of CIFAR-10, CIFAR-100 and STL-10, as their authors publish them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.errors import SourceError
from sources.base import Sample, Source

_RECORDS_PER_CHUNK = 1024
_CIFAR_PIXELS = 3 * 32 * 32
_STL_PIXELS = 3 * 96 * 96


@dataclass(frozen=True)
class _Records:
    """One file. pixels: u8 [N, H, W, C], a view of the mapped file; labels: i64 [N], None where it has none."""

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None


class ArraySource(Source):
    """Pixels of one size in mapped files; a chunk is a range of records."""

    channels = 3

    def __init__(self, name: str, files: list[_Records], classes: tuple[str, ...] | None) -> None:
        self.name, self.classes = name, classes
        self._files = files
        self._ranges = [
            (file, start, min(start + _RECORDS_PER_CHUNK, len(file.pixels)))
            for file in files
            for start in range(0, len(file.pixels), _RECORDS_PER_CHUNK)
        ]
        self.lengths = [stop - start for _, start, stop in self._ranges]

    def fingerprint(self) -> str:
        parts = [(file.name, len(file.pixels)) for file in self._files]
        return hashlib.sha256(json.dumps([self.name, parts, self.classes]).encode()).hexdigest()

    def read(self, chunk: int) -> Iterator[Sample]:
        file, start, stop = self._ranges[chunk]
        pixels = np.ascontiguousarray(file.pixels[start:stop])  # [n, H, W, C]
        labels = [None] * len(pixels) if file.labels is None else file.labels[start:stop].tolist()
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True), start):
            yield Sample(f"{file.name}#{i}", image, label)


def open_cifar(folder: Path, split: str) -> ArraySource:
    """`split`: train, test or train+test. CIFAR-100 with its fine labels."""
    folder = _inside(folder, "cifar-10-batches-bin", "cifar-100-binary")
    names = _parts(split, "cifar", ("train", "test"))
    if (folder / "fine_label_names.txt").exists() or (folder / "train.bin").exists():
        kind, num_labels, names_file = "cifar100", 2, "fine_label_names.txt"
        files = [folder / f"{name}.bin" for name in names]
    else:
        kind, num_labels, names_file = "cifar10", 1, "batches.meta.txt"
        train = sorted(folder.glob("data_batch_*.bin")) or [folder / "data_batch_1.bin"]
        files = [file for name in names for file in (train if name == "train" else [folder / "test_batch.bin"])]
    _refuse_pickles(folder, files)
    classes = _names(folder / names_file)
    return ArraySource(kind, [_cifar_records(file, num_labels, classes) for file in files], classes)


def open_stl10(folder: Path, split: str) -> ArraySource:
    """`split`: train, test, unlabeled, or several joined by +. Without train and test there are no classes."""
    folder = _inside(folder, "stl10_binary")
    names = _parts(split, "stl10", ("train", "test", "unlabeled"))
    labeled = any(name != "unlabeled" for name in names)
    classes = _names(folder / "class_names.txt") if labeled else None
    return ArraySource("stl10", [_stl_records(folder, name, classes or ()) for name in names], classes)


def _cifar_records(file: Path, num_labels: int, classes: tuple[str, ...]) -> _Records:
    """A record is its labels, the last of them the fine one, and the pixels [3, 32, 32]."""
    records = _mapped(file, num_labels + _CIFAR_PIXELS, 10_000)
    pixels = records[:, num_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [N, H, W, C]
    return _Records(file.name, pixels, _checked(file, records[:, num_labels - 1].astype(np.int64), classes))


def _stl_records(folder: Path, split: str, classes: tuple[str, ...]) -> _Records:
    """Pixels are [3, W, H], columns first; labels count from 1."""
    file = folder / f"{split}_X.bin"
    records = _mapped(file, _STL_PIXELS, {"train": 5_000, "test": 8_000, "unlabeled": 100_000}[split])
    pixels = records.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # [N, H, W, C]
    if split == "unlabeled":
        return _Records(file.name, pixels, None)
    labels_file = folder / f"{split}_y.bin"
    labels = _mapped(labels_file, 1, len(pixels))[:, 0].astype(np.int64) - 1
    if len(labels) != len(pixels):
        raise SourceError(
            f"{labels_file} has {len(labels):,} bytes, {len(pixels):,} are expected: one for each image of {file.name}"
        )
    return _Records(file.name, pixels, _checked(labels_file, labels, classes))


def _mapped(file: Path, record_bytes: int, published: int) -> NDArray[np.uint8]:
    """u8 [N, record_bytes]. Raises SourceError where the file does not end with a record."""
    if not file.is_file():
        raise SourceError(f"{file} does not exist; unpack the binary version of the data set there")
    size = file.stat().st_size
    if size == 0 or size % record_bytes:
        raise SourceError(
            f"{file} has {size:,} bytes; a multiple of {record_bytes:,} is expected, {published * record_bytes:,} as "
            "published; fetch it again"
        )
    return np.memmap(file, np.uint8, mode="r").reshape(-1, record_bytes)


def _checked(file: Path, labels: NDArray[np.int64], classes: tuple[str, ...]) -> NDArray[np.int64]:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise SourceError(
            f"{file}: record {wrong[0]} has label {labels[wrong[0]]}, but there are {len(classes)} class names"
        )
    return labels


def _names(file: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as e:
        raise SourceError(f"{file} with the class names cannot be read: {e}") from e
    if not names:
        raise SourceError(f"{file} holds no class names")
    return names


def _inside(folder: Path, *published: str) -> Path:
    """The folder itself, or the one that unpacking the published archive makes in it."""
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder; unpack the binary version of the data set there")
    return next((folder / name for name in published if (folder / name).is_dir()), folder)


def _parts(split: str, scheme: str, known: tuple[str, ...]) -> list[str]:
    names = split.split("+")
    if any(name not in known for name in names) or len(set(names)) != len(names):
        raise SourceError(f"{scheme} has no split '{split}'; choose of {', '.join(known)}, joined by +")
    return names


def _refuse_pickles(folder: Path, files: list[Path]) -> None:
    """The "python version" is a pickle, and reading one can run any code that somebody put there."""
    pickles = ("data_batch_1", "batches.meta", "train", "meta")
    if not files[0].exists() and (found := next((p for p in pickles if (folder / p).is_file()), None)) is not None:
        raise SourceError(
            f"{folder / found} is of the Python version, a pickle, which could run code when read; fetch the binary "
            "version (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz)"
        )
