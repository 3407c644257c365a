"""From samples to pixels of one size, a batch at a time, on threads that read and decode ahead.

Decoding and scaling release the GIL; what is left to Python is little, and paid by the batch
(docs/decisions/0030-threads-decode.md).

Letters: n samples of a batch, S_h x S_w pixels, C channels.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bundle.decode import MODES, decode_image, image_size
from bundle.errors import InvalidInput, SourceError
from bundle.manifest import Preprocess
from bundle.preprocess import preprocess_array, preprocess_picture
from sources import Data, Sample, Source
from training.errors import TrainingError

_MAX_PIXELS = 500_000_000  # one's own files may be larger than what a service accepts from strangers
_MIN_SIDE = 4  # of an image, in pixels; less is a tracking pixel or an accident
_BATCH, _BATCH_BYTES = 32, 16 * 2**20
_READERS = 4  # chunks that are read at the same time: enough to hide the latency of a network
_BATCHES_AHEAD = 2  # of each reader


class Decoder:
    """Makes the pixels of a sample: u8 [S_h, S_w, C], by the service's rules. size: (height, width).

    Raises TrainingError for a number of channels that the source's images cannot be converted to.
    """

    def __init__(self, source: Source, size: tuple[int, int], channels: int) -> None:
        has = source.channels
        if channels not in MODES and has is None:
            raise TrainingError(f"images have 1, 3 or 4 channels, not {channels}; other counts come as .npy arrays")
        if has is not None and channels != has and not (channels in MODES and has in MODES):
            raise TrainingError(f"{source.name} has {has} channels, not {channels}; leave out --channels")
        self.size, self.channels = size, channels
        self._spec = Preprocess(resize=size, crop=size, mean=(0.0,) * channels, std=(1.0,) * channels)

    def __call__(self, data: Data) -> NDArray[np.uint8]:
        """Raises InvalidInput where there is no such image."""
        if isinstance(data, InvalidInput):
            raise data
        if isinstance(data, bytes):
            picture = decode_image(data, channels=self.channels, max_pixels=_MAX_PIXELS, target=self.size)
            _check_side(picture.size)
            return preprocess_picture(picture, self._spec)
        _check_side(data.shape[:2])
        if data.shape[2] != self.channels:
            converted = Image.fromarray(data.squeeze()).convert(MODES[self.channels])
            data = np.asarray(converted).reshape(*data.shape[:2], -1)
        return preprocess_array(data, self._spec)


def default_channels(source: Source) -> int:
    """The arrays' own, else RGB."""
    return source.channels or 3


def median_side(source: Source, num_images: int = 64) -> int:
    """The median of the shorter sides of the first images that can be read, in pixels."""
    sides = []
    for sample in islice(source, num_images):
        try:
            sides.append(min(_size(sample.data)))
        except InvalidInput:
            continue
    if not sides:
        raise TrainingError(f"none of the first {num_images} images could be read; is {source.name} a set of images?")
    return int(np.median(sides))


def _size(data: Data) -> tuple[int, int]:
    if isinstance(data, InvalidInput):
        raise data
    return image_size(data) if isinstance(data, bytes) else (data.shape[0], data.shape[1])


def _num_bytes(data: Data) -> int:
    if isinstance(data, InvalidInput):
        return 0
    return len(data) if isinstance(data, bytes) else data.nbytes


def _check_side(size: tuple[int, ...]) -> None:
    if min(size) < _MIN_SIDE:
        raise InvalidInput(f"{size[0]} x {size[1]} pixels are no image to learn from; {_MIN_SIDE} a side are needed")


class Position(NamedTuple):
    """The first sample that is not done: its chunk, and its place there."""

    chunk: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Decoded:
    """A part of a chunk. pixels: u8 [n, S_h, S_w, C]; labels: of these; corrupt: (name, reason) of the others.

    total, squares: sums over the pixels of each channel, u64 [C]; end: where the next part begins.
    """

    pixels: NDArray[np.uint8]
    labels: list[int | str | None]
    corrupt: list[tuple[str, str]]
    total: NDArray[np.uint64]
    squares: NDArray[np.uint64]
    end: Position


def decoded(source: Source, decoder: Decoder, start: Position, workers: int | None = None) -> Iterator[Decoded]:
    """Everything from `start` on, in order; memory is bounded by a few batches for each worker.

    Raises TrainingError where the source does, after what it gave before that.
    """

    def work(samples: list[Sample], end: Position) -> Decoded:
        images, labels, corrupt = [], [], []
        for sample in samples:
            try:
                images.append(decoder(sample.data))
                labels.append(sample.label)
            except InvalidInput as e:
                corrupt.append((sample.name, str(e)))
        pixels = np.stack(images) if images else np.empty((0, *decoder.size, decoder.channels), np.uint8)
        return Decoded(pixels, labels, corrupt, *pixel_sums(pixels), end)

    workers = workers or num_cores()
    with ThreadPoolExecutor(workers, "decode") as pool, closing(_read_ahead(source, start)) as batches:
        pending, failure = deque[Future[Decoded]](), None
        while True:
            try:
                samples, end = next(batches)
            except StopIteration:
                break
            except SourceError as e:
                failure = e  # raised once everything before it is handed out
                break
            pending.append(pool.submit(work, samples, end))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pixel_sums(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """u8 [n, H, W, C] -> the sum and the sum of squares of each channel, u64 [C], exact."""
    width, channels = pixels.shape[2:]
    rows = pixels.reshape(-1, width * channels)  # along whole rows NumPy adds several times faster than along C
    total, squares = np.zeros((2, width * channels), np.uint64)
    for part in (rows[i : i + 2**16] for i in range(0, len(rows), 2**16)):  # 2^16 squares of a byte fit 32 bits
        wide = part.astype(np.uint16)
        total += part.sum(axis=0, dtype=np.uint32)
        squares += (wide * wide).sum(axis=0, dtype=np.uint32)
    return total.reshape(width, channels).sum(axis=0), squares.reshape(width, channels).sum(axis=0)


def mean_std(
    total: NDArray[np.uint64], squares: NDArray[np.uint64], num_pixels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel in 0..1 units, from exact sums. A constant channel gets a std of 1/255, since it is divided by."""
    mean = total / num_pixels
    std = np.sqrt(np.maximum(squares / num_pixels - mean**2, 1.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _read_ahead(source: Source, start: Position) -> Generator[tuple[list[Sample], Position]]:
    """Batches of samples from `start` on, and where each ends; some chunks are read at the same time."""
    chunks = iter(range(start.chunk, len(source.lengths)))
    readers = deque(_Reader(source, c, start.sample if c == start.chunk else 0) for c in islice(chunks, _READERS))
    try:
        while readers:
            yield from readers[0]
            readers.popleft()
            readers.extend(_Reader(source, chunk, 0) for chunk in islice(chunks, 1))
    finally:
        for reader in readers:
            reader.stop()


class _Reader:
    """Reads one chunk on a thread of its own, never more than a few batches ahead."""

    def __init__(self, source: Source, chunk: int, first: int) -> None:
        self._source, self._chunk, self._first = source, chunk, first
        self._queue: queue.Queue[tuple[list[Sample], Position] | BaseException | None] = queue.Queue(_BATCHES_AHEAD)
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="read", daemon=True).start()

    def __iter__(self) -> Iterator[tuple[list[Sample], Position]]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        """The thread may be waiting for room; it gets some, and sees then that it is to end."""
        self._stopped.set()
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _run(self) -> None:
        try:
            done = self._first
            for samples in _batches(islice(self._source.read(self._chunk), self._first, None)):
                done += len(samples)
                if self._stopped.is_set():
                    return
                self._queue.put((samples, Position(self._chunk, done)))
            self._queue.put(None)
        except BaseException as e:  # noqa: BLE001 - raised where the samples are wanted
            self._queue.put(e)


def _batches(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Cut by number and by bytes, so that a few huge images do not fill the memory."""
    batch, size = list[Sample](), 0
    for sample in samples:
        batch.append(sample)
        size += _num_bytes(sample.data)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
