"""Writes a packed set so that it can be gone on with after any interruption.

While it grows, a pack is append-only files and `progress.json`, which says how much of each is good. It is replaced
atomically after the files have reached the disk; what a killed writer appended later is cut off again. The bytes of
the finished pack depend on the samples alone, not on when or how often it was interrupted.
"""

from __future__ import annotations

import io
import json
import os
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sources.base import PACK_FILE
from training.decode import Decoded, Position, mean_std
from training.errors import TrainingError
from training.packed import CORRUPT_FILE, LABELS_FILE, NO_LABEL, PackInfo
from training.run import write_atomic

PROGRESS_FILE = "progress.json"
_RAW_LABELS_FILE = "labels.raw"  # i64, in the order of the pixels
_SAVE_EVERY_S = 5.0
_SHARD_BYTES = 512 * 2**20
_MAX_CLASSES = 1_000_000
_MIN_CAPTIONS = 100


@dataclass(frozen=True)
class Plan:
    """What a pack is made from, and how: `progress.json` of an interrupted one must agree."""

    source: str
    fingerprint: str
    size: tuple[int, int]
    channels: int
    shard_images: int

    @staticmethod
    def make(source: str, fingerprint: str, size: tuple[int, int], channels: int) -> Plan:
        return Plan(source, fingerprint, size, channels, max(1, _SHARD_BYTES // (size[0] * size[1] * channels)))


@dataclass
class Progress:
    """position: of the first sample that is not packed; total, squares: exact sums per channel of all pixels.

    kind: what the labels are, `numbers` or `names`, as soon as one is seen; names: in the order of their first
    appearance; highest: the highest label.
    """

    total: list[int]
    squares: list[int]
    position: Position = field(default_factory=Position)
    num_images: int = 0
    num_corrupt: int = 0
    corrupt_bytes: int = 0
    names: list[str] = field(default_factory=list)
    highest: int = NO_LABEL
    kind: str = ""


class ShardWriter:
    """A context: what was added is saved at its end, also after an error. `progress`: what is packed so far.

    Raises TrainingError where the disk does not take it, or where the folder holds the beginning of another pack.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.progress = self._read_progress()
        self._index = {name: i for i, name in enumerate(self.progress.names)}
        self._image_bytes = plan.size[0] * plan.size[1] * plan.channels
        self._saved = time.monotonic()
        self._shard: FileIO | None = None
        self._disk_failed = False

    def __enter__(self) -> Self:
        p = self.progress
        with ExitStack() as files:  # closes what is open already if another one cannot be opened
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._labels = files.enter_context(_open_cut(self.folder / _RAW_LABELS_FILE, 8 * p.num_images))
                self._corrupt = files.enter_context(_open_cut(self.folder / CORRUPT_FILE, p.corrupt_bytes))
                if p.num_images % self.plan.shard_images:
                    self._shard = self._open_shard(p.num_images)
            except OSError as e:
                raise self._not_written(e) from e
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._files, self._shard or nullcontext():
            if not self._disk_failed:
                self.save()

    def add(self, part: Decoded) -> None:
        """In the order of the source; saved every few seconds."""
        p = self.progress
        labels = np.array([self._label(label) for label in part.labels], np.int64)
        report = "".join(json.dumps({"name": name, "error": error}) + "\n" for name, error in part.corrupt).encode()
        try:
            self._append_pixels(part.pixels)
            _write_all(self._labels, labels)
            _write_all(self._corrupt, report)
        except OSError as e:
            raise self._not_written(e) from e
        self.progress = replace(  # at once: a signal finds the one or the other
            p,
            position=part.end,
            num_images=p.num_images + len(labels),
            num_corrupt=p.num_corrupt + len(part.corrupt),
            corrupt_bytes=p.corrupt_bytes + len(report),
            total=[a + int(b) for a, b in zip(p.total, part.total, strict=True)],
            squares=[a + int(b) for a, b in zip(p.squares, part.squares, strict=True)],
            highest=max(p.highest, int(labels.max(initial=NO_LABEL))),
        )
        if time.monotonic() - self._saved > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """First the data, then what vouches for them."""
        try:
            for file in (self._labels, self._corrupt, self._shard):
                if file is not None:
                    os.fsync(file.fileno())
            document = {"plan": asdict(self.plan), "progress": asdict(self.progress)}
            write_atomic(self.folder / PROGRESS_FILE, json.dumps(document).encode())
        except OSError as e:
            raise self._not_written(e) from e
        self._saved = time.monotonic()

    def finish(self, name: str, classes: tuple[str, ...] | None) -> PackInfo:
        """After the last sample: completes the files and writes `pack.json`. classes: None where the labels tell.

        Raises TrainingError where no image could be read.
        """
        p, plan = self.progress, self.plan
        if p.num_images == 0:
            raise TrainingError(f"none of {p.num_corrupt} images could be read; see {self.folder / CORRUPT_FILE}")
        self.save()
        labels = np.fromfile(self.folder / _RAW_LABELS_FILE, np.int64)
        if classes is None:
            classes, labels = self._classes_of(labels)
        mean, std = mean_std(np.array(p.total), np.array(p.squares), p.num_images * plan.size[0] * plan.size[1])
        shards = _shard_lengths(p.num_images, plan.shard_images)
        info = PackInfo(
            name=name, source=plan.source, size=plan.size, channels=plan.channels, num_images=p.num_images,
            num_corrupt=p.num_corrupt, shards=shards, classes=classes, mean=mean, std=std,
            fingerprint=plan.fingerprint,
        )  # fmt: skip
        try:
            if self._shard is not None:
                self._shard.seek(0)
                _write_all(self._shard, self._header(list(shards.values())[-1]))
                os.fsync(self._shard.fileno())
            write_atomic(self.folder / LABELS_FILE, _npy(labels))
            write_atomic(self.folder / PACK_FILE, (json.dumps(asdict(info), indent=2) + "\n").encode())
        except OSError as e:
            raise self._not_written(e) from e
        return info

    def _classes_of(self, labels: NDArray[np.int64]) -> tuple[tuple[str, ...] | None, NDArray[np.int64]]:
        """The classes that the samples named, sorted, and the labels as indices into them; or by number."""
        names = self.progress.names
        if names:
            if len(names) > max(_MIN_CAPTIONS, len(labels) // 2):  # no classes but captions, one for each image
                return None, np.full_like(labels, NO_LABEL)
            ranks = np.argsort(np.argsort(np.array(names)))
            return tuple(sorted(names)), np.where(labels == NO_LABEL, NO_LABEL, ranks[labels])
        count = self.progress.highest + 1
        return (tuple(str(i) for i in range(count)) if count else None), labels

    def _label(self, label: int | str | None) -> int:
        if label is None or label == NO_LABEL:
            return NO_LABEL
        kind = "names" if isinstance(label, str) else "numbers"
        if self.progress.kind not in ("", kind):
            raise TrainingError(f"label {label!r} beside labels that are {self.progress.kind}; use one kind for all")
        self.progress.kind = kind
        if isinstance(label, str):
            if label not in self._index:
                self._index[label] = len(self._index)
                self.progress.names.append(label)
            return self._index[label]
        if not 0 <= label < _MAX_CLASSES:
            raise TrainingError(f"label {label} is no class; number them from 0, below {_MAX_CLASSES:,}")
        return label

    def _append_pixels(self, pixels: NDArray[np.uint8]) -> None:
        """pixels: u8 [n, S_h, S_w, C]; a shard that is full is closed for good."""
        count = self.progress.num_images
        while len(pixels):
            if self._shard is None:
                self._shard = self._open_shard(count)
            room = self.plan.shard_images - count % self.plan.shard_images
            _write_all(self._shard, pixels[:room])
            count += len(pixels[:room])
            pixels = pixels[room:]
            if count % self.plan.shard_images == 0:
                os.fsync(self._shard.fileno())
                self._shard.close()
                self._shard = None

    def _open_shard(self, num_before: int) -> FileIO:
        """The shard that image number `num_before` goes to, cut to the images before it."""
        index, images = divmod(num_before, self.plan.shard_images)
        header = self._header(self.plan.shard_images)
        path = self.folder / _shard_name(index)
        if images:
            return _open_cut(path, len(header) + images * self._image_bytes)
        shard = _open_cut(path, 0)
        _write_all(shard, header)
        return shard

    def _header(self, num_images: int) -> bytes:
        """Of a .npy file of so many images; NumPy leaves room for a longer number, so its length is always the same."""
        buffer = io.BytesIO()
        shape = (num_images, *self.plan.size, self.plan.channels)
        np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return buffer.getvalue()

    def _read_progress(self) -> Progress:
        path = self.folder / PROGRESS_FILE
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            plan, fields = document["plan"], document["progress"]
            fields["position"] = Position(*fields["position"])
            progress = Progress(**fields)
        except FileNotFoundError:
            return Progress([0] * self.plan.channels, [0] * self.plan.channels)
        except (OSError, KeyError, TypeError, ValueError) as e:
            raise TrainingError(f"{path} is damaged: {e}; remove {self.folder} to pack from the start") from e
        for name, value in json.loads(json.dumps(asdict(self.plan))).items():
            if plan.get(name) != value:
                what = "files" if name == "fingerprint" else f"{name} {plan.get(name)} instead of {value}"
                raise TrainingError(f"{self.folder} holds the beginning of a pack of other {what}; remove it")
        return progress

    def _not_written(self, e: OSError) -> TrainingError:
        self._disk_failed = True
        return TrainingError(
            f"{self.folder} could not be written: {e.strerror or e}; make room, and the same command goes on from there"
        )


def tidy(folder: Path) -> None:
    """Remove what only an unfinished pack needs, `progress.json` first of all."""
    for name in (PROGRESS_FILE, _RAW_LABELS_FILE):
        (folder / name).unlink(missing_ok=True)


def _shard_name(index: int) -> str:
    return f"pixels-{index:05d}.npy"


def _shard_lengths(num_images: int, per_shard: int) -> dict[str, int]:
    starts = range(0, num_images, per_shard)
    return {_shard_name(i): min(per_shard, num_images - start) for i, start in enumerate(starts)}


def _npy(array: NDArray[np.int64]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _open_cut(path: Path, size: int) -> FileIO:
    """Open for appending after the first `size` bytes; what lies beyond was never vouched for."""
    file = FileIO(path, "r+" if path.exists() else "x+")
    if file.seek(0, os.SEEK_END) < size:
        file.close()
        raise TrainingError(f"{path} has lost its end; remove {path.parent} to pack from the start")
    file.truncate(size)
    file.seek(size)
    return file


def _write_all(file: FileIO, data: bytes | NDArray[Any]) -> None:
    """Unbuffered, so that nothing is left to fail when the file is closed; one call may take a part only."""
    view = memoryview(data if isinstance(data, bytes) else np.ascontiguousarray(data).data).cast("B")
    while len(view):
        view = view[file.write(view) :]
