"""From samples to pixels of one size: in order, whatever the threads do, and with exact sums."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bundle.errors import InvalidInput, SourceError
from sources import Sample, Source
from training import decode
from training.decode import Decoder, Position, decoded, mean_std, median_side, pixel_sums
from training.errors import TrainingError
from training.pack import pack

SIZE = (4, 6)


class Numbered(Source):
    """Sample i is an image of the value i; chunks of the given lengths. Every seventh sample is corrupt."""

    name, channels = "numbers", 2

    def __init__(self, *lengths: int) -> None:
        self.lengths = self.counts = lengths
        self.reading = 0

    def read(self, chunk: int) -> Iterator[Sample]:
        self.reading += 1
        start = sum(self.counts[:chunk])
        for i in range(start, start + self.counts[chunk]):
            broken = InvalidInput(f"no {i}")
            yield Sample(str(i), broken if i % 7 == 6 else np.full((*SIZE, 2), i, np.uint8), i)

    def fingerprint(self) -> str:
        return str(self.lengths)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    start=st.tuples(st.integers(0, 7), st.integers(0, 40)),
    workers=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_everything_from_a_position_on_in_order(lengths: list[int], start: tuple[int, int], workers: int) -> None:
    chunk = min(start[0], len(lengths) - 1)
    position = Position(chunk, min(start[1], lengths[chunk]))
    source = Numbered(*lengths)
    parts = list(decoded(source, Decoder(source, SIZE, 2), position, workers))
    ids = range(sum(lengths[:chunk]) + position.sample, sum(lengths))
    good = [i for i in ids if i % 7 != 6]
    assert [label for part in parts for label in part.labels] == good
    assert [image[0, 0, 0] for part in parts for image in part.pixels] == good
    assert [row for part in parts for row in part.corrupt] == [(str(i), f"no {i}") for i in ids if i % 7 == 6]
    done = position.sample
    for part in parts:  # each part says where the next one begins
        done = len(part.labels) + len(part.corrupt) + (done if part.end.chunk == chunk else 0)
        chunk = part.end.chunk
        assert part.end == (chunk, done)


def test_stopping_early_ends_the_threads_and_reads_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_BATCH", 2)
    before = threading.active_count()
    source = Numbered(*[10] * 100)
    parts = decoded(source, Decoder(source, SIZE, 2), Position(), 2)
    next(parts)
    assert source.reading <= decode._READERS
    parts.close()  # type: ignore[attr-defined]
    deadline = threading.Event()
    for _ in range(200):
        if threading.active_count() <= before:
            break
        deadline.wait(0.01)
    assert threading.active_count() <= before


def test_an_error_comes_after_what_was_read_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_BATCH", 1)

    class Cut(Numbered):
        def read(self, chunk: int) -> Iterator[Sample]:
            yield from super().read(chunk)
            if chunk == 2:
                raise SourceError("cut short")

    source = Cut(3, 3, 3, 3)
    labels = list[int | str | None]()
    parts = decoded(source, Decoder(source, SIZE, 2), Position(), 2)
    with pytest.raises(SourceError, match="cut short"):
        labels.extend(label for part in parts for label in part.labels)
    assert labels == [0, 1, 2, 3, 4, 5, 7, 8]


def test_a_batch_of_huge_images_is_cut_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_BATCH_BYTES", 3 * 4 * 6 * 2)
    source = Numbered(6)
    parts = list(decoded(source, Decoder(source, SIZE, 2), Position(), 1))
    assert [len(part.pixels) for part in parts] == [3, 3]


@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (2, 70_000, 1, 1), (1, 1, 1, 300), (0, 4, 4, 3)])
def test_sums_are_exact(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels[:1] = 255  # the most that 32 bits have to hold
    total, squares = pixel_sums(pixels)
    values = pixels.astype(object).reshape(-1, shape[3])
    assert total.tolist() == values.sum(axis=0).tolist() if len(pixels) else total.tolist() == [0] * 3
    assert squares.tolist() == (values * values).sum(axis=0).tolist() if len(pixels) else squares.tolist() == [0] * 3


def test_mean_and_std_by_hand() -> None:
    mean, std = mean_std(np.array([510, 8], np.uint64), np.array([65025 * 2, 16], np.uint64), 4)
    assert mean == pytest.approx((0.5, 2 / 255))
    assert std == pytest.approx((0.5, 1 / 255))  # the second channel is constant


# Channels and sizes


def test_other_channels_than_an_image_can_have_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"images have 1, 3 or 4 channels, not 5; other counts come as .npy arrays"):
        pack(photos, tmp_path / "out", channels=5)
    with pytest.raises(TrainingError, match="numbers has 2 channels, not 3; leave out --channels"):
        Decoder(Numbered(1), SIZE, 3)


@pytest.mark.parametrize("side", [1, 3])
def test_a_tracking_pixel_is_no_image(side: int, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (50, side)).save(tmp_path / "photos" / "thin.png")
    for i in range(2):
        Image.new("RGB", (4, 50)).save(tmp_path / "photos" / f"{i}.png")
    packed = pack(tmp_path / "photos", tmp_path / "out")
    assert (len(packed), packed.info.num_corrupt) == (2, 1)
    report = (tmp_path / "out" / "corrupt.jsonl").read_text()
    assert f"{side} x 50 pixels are no image to learn from; 4 a side are needed" in report


def test_the_median_side_is_of_arrays_too() -> None:
    assert median_side(Numbered(3)) == 4
