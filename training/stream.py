"""Training on a source that is too big to pack: every step's images are read and decoded while the steps before run.

The order is a function of (seed, epoch) alone. Chunks are permuted and dealt to the ranks; a rank takes as many of its
chunks as fill a window, and permutes the samples within it. So any step can be reached by reading one window, or two
where it lies across their border, and a run that resumes in the middle of an epoch sees what it would have seen
(docs/decisions/0031-windows-of-chunks.md).

Letters: B images of this rank's batch, S_h x S_w pixels, C channels.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidInput
from sources import NpyRange, Sample, Source, location, open_source
from training.decode import Decoder, default_channels, mean_std, median_side, num_cores, pixel_sums
from training.errors import TrainingError
from training.packed import CORRUPT_FILE, PackInfo
from training.progress import track
from training.recipes import choose_recipe
from training.run import write_atomic

STREAM_FILE = "stream.json"
WINDOW = 8192  # samples: enough to mix, and at 100 KB an image 0.8 GB
_READERS = 8  # chunks that are read at the same time
_STEPS_AHEAD = 2
_IMAGES_PER_TASK = 8
_ESTIMATE_CHUNKS, _ESTIMATE_PER_CHUNK = 16, 128  # the images that mean and std are taken from


@dataclass(frozen=True)
class StreamIndex:
    """`stream.json`: what has to be known of a source before its first step. lengths: the samples of each chunk."""

    info: PackInfo
    fingerprint: str
    lengths: tuple[int, ...]

    @staticmethod
    def read(folder: Path) -> StreamIndex | None:
        """None where there is none yet. Raises TrainingError where it is damaged."""
        path = folder / STREAM_FILE
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            info = PackInfo.from_json(document["info"])
            return StreamIndex(info, document["fingerprint"], tuple(document["lengths"]))
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise TrainingError(f"{path} is damaged: {e}; remove it") from e


def open_stream(
    data: str | Path,
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    npy_range: NpyRange | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    window: int = WINDOW,
    workers: int | None = None,
) -> StreamingDataset:
    """Stream what `data` names; `folder` keeps `stream.json` and the list of corrupt images.

    size: (height, width) in pixels, None = by the images' own. window: samples that are mixed; twice as many are in
    memory, as encoded as they are in the source. Of several ranks the first should open it before the others, which
    then find what it counted. Raises TrainingError where the source cannot be read or is not the one of `stream.json`.
    """
    source = open_source(data, npy_range=npy_range)
    index = StreamIndex.read(folder)
    if index is None:
        size = size or choose_recipe(median_side(source)).pack_size
        index = _make_index(source, location(data), Decoder(source, size, channels or default_channels(source)))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / STREAM_FILE, json.dumps(asdict(index)).encode())
    _refuse_another(index, source, size, channels, folder)
    return StreamingDataset(
        source, index, folder / CORRUPT_FILE, seed=seed, rank=rank, world_size=world_size, window=window,
        workers=workers,
    )  # fmt: skip


def _make_index(source: Source, name: str, decoder: Decoder) -> StreamIndex:
    with track("counting", len(source.lengths)) as bar, ThreadPoolExecutor(_READERS) as pool:
        lengths = []
        for length in pool.map(source.count, range(len(source.lengths))):
            lengths.append(length)
            bar.advance()
    if sum(lengths) == 0:
        raise TrainingError(f"{name} holds no images")
    mean, std = _estimate(source, decoder)
    info = PackInfo(
        name=source.name, source=name, size=decoder.size, channels=decoder.channels, num_images=sum(lengths),
        num_corrupt=0, shards={}, classes=source.classes, mean=mean, std=std,
    )  # fmt: skip
    return StreamIndex(info, source.fingerprint(), tuple(lengths))


def _estimate(source: Source, decoder: Decoder) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, from the first images of some chunks, drawn by a fixed seed."""
    chunks = np.random.default_rng(0).permutation(len(source.lengths))[:_ESTIMATE_CHUNKS].tolist()

    def sums(chunk: int) -> tuple[NDArray[np.uint64], int]:
        total, count = np.zeros((2, decoder.channels), np.uint64), 0
        for sample in islice(source.read(chunk), _ESTIMATE_PER_CHUNK):
            try:
                total += np.stack(pixel_sums(decoder(sample.data)[None]))
                count += 1
            except InvalidInput:
                continue
        return total, count

    with ThreadPoolExecutor(num_cores()) as pool:
        parts = list(pool.map(sums, chunks))
    if (count := sum(count for _, count in parts)) == 0:
        raise TrainingError(f"none of the images that {source.name} was to be judged by could be read")
    total, squares = sum((total for total, _ in parts), np.zeros((2, decoder.channels), np.uint64))
    return mean_std(total, squares, count * decoder.size[0] * decoder.size[1])


def _refuse_another(
    index: StreamIndex, source: Source, size: tuple[int, int] | None, channels: int | None, folder: Path
) -> None:
    path = folder / STREAM_FILE
    if index.fingerprint != source.fingerprint() or len(index.lengths) != len(source.lengths):
        raise TrainingError(f"{path} is of other files than {source.name} has now; remove it to count them again")
    for name, asked, found in (("size", size, index.info.size), ("channels", channels, index.info.channels)):
        if asked is not None and asked != found:
            raise TrainingError(f"{path} is for {name} {found}, not {asked}; remove it to begin anew")


@dataclass(frozen=True)
class _Epoch:
    """One rank's part. windows: of each, its chunks; starts: i64 [windows + 1], the samples before each and in all."""

    windows: tuple[tuple[int, ...], ...]
    starts: NDArray[np.int64]


def deal_epoch(lengths: tuple[int, ...], seed: int, epoch: int, rank: int, world_size: int, window: int) -> _Epoch:
    """Every chunk goes to one rank; a rank's chunks, in order, to windows of at least `window` samples but the last."""
    mine = np.random.default_rng([seed, epoch]).permutation(len(lengths))[rank::world_size].tolist()
    windows, starts, held, count = list[tuple[int, ...]](), [0], list[int](), 0
    for i, chunk in enumerate(mine, 1):
        held.append(chunk)
        count += lengths[chunk]
        if count >= window or (i == len(mine) and count):
            windows.append(tuple(held))
            starts.append(starts[-1] + count)
            held, count = [], 0
    return _Epoch(tuple(windows), np.array(starts, np.int64))


@dataclass(frozen=True)
class _Window:
    """samples: as they are in the source; order: i64, a permutation of them."""

    samples: list[Sample]
    order: NDArray[np.int64]


class StreamingDataset:
    """Batches of a source, by step; threads read and decode some steps ahead.

    info: size, channels, mean, std (an estimate), num_images (corrupt ones included) and classes, as of a packed set.
    corrupt: name -> reason of what could not be read so far, which is also written to `report` as it is found.
    """

    def __init__(
        self,
        source: Source,
        index: StreamIndex,
        report: Path,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        window: int = WINDOW,
        workers: int | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        if window < 1:
            raise ValueError(f"window must be at least 1 sample, got {window}")
        if len(index.lengths) < world_size:
            raise TrainingError(
                f"{index.info.source} has {len(index.lengths)} chunks for {world_size} processes; write smaller "
                "shards, or pack it"
            )
        self.info = index.info
        self.corrupt: dict[str, str] = _read_report(report)
        self._source, self._lengths, self._report = source, index.lengths, report
        self._seed, self._rank, self._world_size, self._window = seed, rank, world_size, window
        self._decoder = Decoder(source, self.info.size, self.info.channels)
        self._lock = threading.Lock()
        self._workers = workers or num_cores()
        self._decoders = ThreadPoolExecutor(self._workers, "decode")
        self._readers = ThreadPoolExecutor(_READERS, "read")
        self._loader = ThreadPoolExecutor(1, "window")
        self._assembler = ThreadPoolExecutor(1, "batch")
        self._windows: dict[tuple[int, int], Future[_Window]] = {}
        self._ahead: dict[tuple[int, int], Future[NDArray[np.uint8]]] = {}
        self._epoch = lru_cache(maxsize=2)(self._deal)

    def __len__(self) -> int:
        return self.info.num_images

    def steps_per_epoch(self, batch_size: int) -> int:
        """batch_size: of one rank. Raises ValueError where all images together are fewer than one step takes."""
        steps = len(self) // (batch_size * self._world_size)
        if batch_size < 1 or steps < 1:
            raise ValueError(f"a batch of {batch_size} x {self._world_size} does not fit {len(self)} images")
        return steps

    def batch_at(self, step: int, batch_size: int) -> NDArray[np.uint8]:
        """This rank's images of global step `step`: u8 [B, S_h, S_w, C], B = batch_size. Always the same.

        A rank whose chunks hold fewer samples than an epoch takes begins again with its first; one with more leaves
        the rest for another epoch. In place of a corrupt sample comes the next of its window that is none. Raises
        TrainingError where the source cannot be read.
        """
        self.steps_per_epoch(batch_size)
        wanted = [(s, batch_size) for s in range(step, step + 1 + _STEPS_AHEAD)]
        for key in [key for key in self._ahead if key not in wanted]:
            self._ahead.pop(key).cancel()
        for key in wanted:
            if key not in self._ahead:
                self._ahead[key] = self._assembler.submit(self._assemble, *key)
        return self._ahead.pop(wanted[0]).result()

    def first(self, num_images: int) -> NDArray[np.uint8]:
        """The first readable images in the order of the source, u8 [n, S_h, S_w, C], n <= num_images: for pictures."""
        images = list(islice(chain.from_iterable(map(self._readable, self._source)), num_images))
        return np.stack(images) if images else np.empty((0, *self.info.size, self.info.channels), np.uint8)

    def close(self) -> None:
        """End the threads; what they are reading is dropped."""
        for pool in (self._assembler, self._loader, self._readers, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)

    def _deal(self, epoch: int) -> _Epoch:
        return deal_epoch(self._lengths, self._seed, epoch, self._rank, self._world_size, self._window)

    def _assemble(self, step: int, batch_size: int) -> NDArray[np.uint8]:
        epoch, place = divmod(step, self.steps_per_epoch(batch_size))
        part = self._epoch(epoch)
        if part.starts[-1] == 0:
            raise TrainingError(f"no image of {self.info.source} is left for process {self._rank}; pack it")
        positions = (place * batch_size + np.arange(batch_size)) % part.starts[-1]
        number = np.searchsorted(part.starts, positions, side="right") - 1  # of the window
        needed = [(epoch, int(w)) for w in dict.fromkeys(number.tolist())]
        windows = self._load(needed, self._next_window(needed[-1]))
        out = np.empty((batch_size, *self.info.size, self.info.channels), np.uint8)

        def fill(rows: NDArray[np.int64]) -> None:
            for row in rows:
                w = int(number[row])
                out[row] = self._image(windows[epoch, w], int(positions[row] - part.starts[w]))

        tasks = np.array_split(np.arange(batch_size), -(-batch_size // _IMAGES_PER_TASK))
        for _ in self._decoders.map(fill, tasks):
            pass
        return out

    def _next_window(self, key: tuple[int, int]) -> tuple[int, int]:
        epoch, w = key
        return (epoch, w + 1) if w + 1 < len(self._epoch(epoch).windows) else (epoch + 1, 0)

    def _load(self, needed: list[tuple[int, int]], following: tuple[int, int]) -> dict[tuple[int, int], _Window]:
        """What is needed, waited for; what follows is begun, and everything else forgotten."""
        keys = [*needed, following]
        for key in [key for key in self._windows if key not in keys]:
            self._windows.pop(key).cancel()
        for key in keys:
            if key not in self._windows:
                self._windows[key] = self._loader.submit(self._read_window, *key)
        return {key: self._windows[key].result() for key in needed}

    def _read_window(self, epoch: int, w: int) -> _Window:
        chunks = self._epoch(epoch).windows[w]
        samples = list(chain.from_iterable(self._readers.map(self._read_chunk, chunks)))
        rng = np.random.default_rng([self._seed, epoch, self._rank, w, 1])
        return _Window(samples, rng.permutation(len(samples)))

    def _read_chunk(self, chunk: int) -> list[Sample]:
        samples = list(self._source.read(chunk))
        if len(samples) != self._lengths[chunk]:
            raise TrainingError(
                f"{self.info.source}: chunk {chunk} has {len(samples)} images now, not {self._lengths[chunk]}; "
                f"remove {self._report.parent / STREAM_FILE} to count them again"
            )
        return samples

    def _image(self, window: _Window, place: int) -> NDArray[np.uint8]:
        count = len(window.samples)
        following = (window.samples[window.order[i % count]] for i in range(place, place + count))
        for image in chain.from_iterable(map(self._readable, following)):
            return image
        raise TrainingError(f"none of {count} images in a row could be read; see {self._report}")

    def _readable(self, sample: Sample) -> Iterable[NDArray[np.uint8]]:
        """Its pixels, or nothing but a line in the report."""
        try:
            return (self._decoder(sample.data),)
        except InvalidInput as e:
            with self._lock:
                if sample.name not in self.corrupt:
                    self.corrupt[sample.name] = str(e)
                    _append(self._report, {"name": sample.name, "error": str(e)})
            return ()


def _read_report(path: Path) -> dict[str, str]:
    """What earlier starts found."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text().splitlines() if line.endswith("}"))
    return {row["name"]: row["error"] for row in rows}


def _append(path: Path, row: dict[str, str]) -> None:
    """In one write, so that the lines of several processes do not mix."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, (json.dumps(row) + "\n").encode())
    finally:
        os.close(file)
