"""Streaming: every step's images are the same whenever they are asked for, and every image comes once an epoch."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundle.errors import InvalidInput
from sources import Sample, Source
from training.errors import TrainingError
from training.pack import pack
from training.stream import StreamIndex, StreamingDataset, deal_epoch, open_stream

Open = Callable[..., StreamingDataset]


class Numbered(Source):
    """Image i is of the value i; chunks of ten and one of seven. `broken` cannot be read; `read_count` by chunk."""

    name, channels = "numbers", 1

    def __init__(self, num_chunks: int = 12, broken: frozenset[int] = frozenset()) -> None:
        self.counts = (*[10] * (num_chunks - 1), 7)
        self.lengths = self.counts
        self.broken = broken
        self.read_count = Counter[int]()

    def read(self, chunk: int) -> Iterator[Sample]:
        self.read_count[chunk] += 1
        for i in range(10 * chunk, 10 * chunk + self.counts[chunk]):
            pixels = np.full((8, 8, 1), i, np.uint8)
            yield Sample(f"n{i}", InvalidInput("broken") if i in self.broken else pixels, None)

    def fingerprint(self) -> str:
        return str(self.lengths)


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a source of numbers; whatever was opened is closed at the end."""
    opened = list[StreamingDataset]()

    def start(source: Source | None = None, **options: object) -> StreamingDataset:
        monkeypatch.setattr("training.stream.open_source", lambda *_args, **_options: source or Numbered())
        options = {"size": (8, 8), "window": 25, "workers": 2} | options
        opened.append(open_stream("numbers", tmp_path / "stream", **options))  # type: ignore[arg-type]
        return opened[-1]

    yield start
    for dataset in opened:
        dataset.close()


def values(batch: NDArray[np.uint8]) -> list[int]:
    assert batch.dtype == np.uint8
    assert batch.shape[1:] == (8, 8, 1)
    assert (batch == batch[:, :1, :1]).all()
    return [int(v) for v in batch[:, 0, 0, 0]]


def epoch_of(dataset: StreamingDataset, epoch: int, batch_size: int) -> list[int]:
    steps = dataset.steps_per_epoch(batch_size)
    return [v for s in range(epoch * steps, (epoch + 1) * steps) for v in values(dataset.batch_at(s, batch_size))]


def test_every_image_comes_once_an_epoch_in_another_order(stream: Open) -> None:
    dataset = stream()
    assert len(dataset) == dataset.info.num_images == 117
    first, second = (epoch_of(dataset, epoch, 9) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(117))
    assert first != second
    assert first != sorted(first)


def test_images_are_mixed_across_the_chunks_of_a_window(stream: Open) -> None:
    """25 samples and more make a window: three chunks of ten, or of them the one of seven."""
    batch = values(stream().batch_at(0, 27))
    assert len({v // 10 for v in batch}) == 3
    assert [v // 10 for v in batch] != sorted(v // 10 for v in batch)


def test_any_step_can_be_reached_by_itself(stream: Open) -> None:
    straight = stream(seed=5)
    expected = {step: values(straight.batch_at(step, 8)) for step in range(40)}
    for step in (33, 7, 0, 39, 14):  # a run that resumes there
        resumed = stream(seed=5)
        assert values(resumed.batch_at(step, 8)) == expected[step]
        assert values(resumed.batch_at(step + 1, 8)) == expected.get(step + 1, values(straight.batch_at(step + 1, 8)))
    jumping = stream(seed=5)
    assert all(values(jumping.batch_at(step, 8)) == expected[step] for step in (3, 3, 30, 2, 31))
    assert values(stream(seed=6).batch_at(0, 8)) != expected[0]


def test_threads_and_chance_change_nothing(stream: Open) -> None:
    one, four = stream(workers=1), stream(workers=4)
    assert all(values(one.batch_at(s, 16)) == values(four.batch_at(s, 16)) for s in range(15))


def test_a_resumed_step_reads_its_window_and_the_next_alone(stream: Open) -> None:
    stream()  # counts, and estimates mean and std
    source = Numbered()
    values(stream(source).batch_at(7, 8))  # of images 56 to 63, in the third window
    assert 3 <= len(source.read_count) <= 9  # of twelve: the window, and what is read ahead of need
    assert max(source.read_count.values()) == 1


def test_no_chunk_is_read_twice_in_an_epoch(stream: Open) -> None:
    stream()
    source = Numbered()
    dataset = stream(source)
    for step in range(15):  # the last window is read by then, and the next epoch not yet begun
        dataset.batch_at(step, 5)
    assert len(source.read_count) >= 11
    assert set(source.read_count.values()) == {1}


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=20).map(tuple), seed=st.integers(0, 9),
    epoch=st.integers(0, 3), world_size=st.integers(1, 5), window=st.integers(1, 80),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_an_epoch_deals_every_chunk_to_one_rank(
    lengths: tuple[int, ...], seed: int, epoch: int, world_size: int, window: int
) -> None:
    parts = [deal_epoch(lengths, seed, epoch, rank, world_size, window) for rank in range(world_size)]
    chunks = [c for part in parts for w in part.windows for c in w]
    assert len(set(chunks)) == len(chunks)
    assert sum(lengths[c] for c in chunks) == sum(lengths)
    for part in parts:
        sizes = [sum(lengths[c] for c in w) for w in part.windows]
        assert np.diff(part.starts).tolist() == sizes
        assert all(size >= window for size in sizes[:-1])
        assert all(size - lengths[w[-1]] < window for size, w in zip(sizes, part.windows, strict=True))


def test_each_rank_has_its_part(stream: Open) -> None:
    """Twelve chunks for three ranks: none sees an image of another's, and together they see nearly all."""
    ranks = [stream(rank=rank, world_size=3) for rank in range(3)]
    assert {dataset.steps_per_epoch(4) for dataset in ranks} == {9}
    seen = [epoch_of(dataset, 0, 4) for dataset in ranks]
    assert [len(own) for own in seen] == [36, 36, 36]
    sets = [set(own) for own in seen]
    assert len(set.union(*sets)) == 108


def test_a_rank_with_too_little_begins_again(stream: Open) -> None:
    """The rank that is dealt the chunk of seven has 7 images for 8 places."""
    for rank in range(2):
        dataset = stream(Numbered(2), rank=rank, world_size=2)
        own = epoch_of(dataset, 0, 8)
        if 10 in own:
            assert sorted(own[:7]) == list(range(10, 17))
            assert own[7] == own[0]
        else:
            assert len(set(own)) == 8


# Corrupt images


def test_in_place_of_a_corrupt_image_comes_the_next_of_its_window(stream: Open, tmp_path: Path) -> None:
    broken = frozenset({3, 40, 41, 100})
    whole, holes = stream(), stream(Numbered(broken=broken))
    before, after = epoch_of(whole, 0, 9), epoch_of(holes, 0, 9)
    assert [a for a, b in zip(after, before, strict=True) if b not in broken] == [b for b in before if b not in broken]
    starts = deal_epoch(Numbered().counts, 0, 0, 0, 1, 25).starts
    for i, value in enumerate(before):
        w = int(np.searchsorted(starts, i, side="right")) - 1
        window = before[starts[w] : starts[w + 1]]
        following = window[i - starts[w] :] + window
        assert after[i] == next(v for v in following if v not in broken), value
    assert holes.corrupt == {f"n{i}": "broken" for i in broken}
    rows = [json.loads(line) for line in (tmp_path / "stream" / "corrupt.jsonl").read_text().splitlines()]
    assert sorted(row["name"] for row in rows) == sorted(f"n{i}" for i in broken)
    again = stream(Numbered(broken=broken))
    assert again.corrupt == holes.corrupt  # what an earlier start found is not written twice
    assert epoch_of(again, 0, 9) == after
    assert len((tmp_path / "stream" / "corrupt.jsonl").read_text().splitlines()) == len(broken)


def test_a_window_without_a_readable_image_ends_the_run(stream: Open) -> None:
    stream()
    dataset = stream(Numbered(broken=frozenset(range(117))))
    with pytest.raises(TrainingError, match=r"none of (27|30) images in a row could be read; see .*corrupt.jsonl"):
        dataset.batch_at(0, 9)


# What is said of the whole


def test_mean_and_std_of_a_small_set_are_exact_and_kept(stream: Open, tmp_path: Path) -> None:
    dataset = stream(Numbered(broken=frozenset({0})))
    pixels = np.arange(1, 117) / 255
    assert dataset.info.mean == pytest.approx((pixels.mean(),))
    assert dataset.info.std == pytest.approx((pixels.std(),))
    index = StreamIndex.read(tmp_path / "stream")
    assert index is not None
    assert (index.info, index.lengths) == (dataset.info, Numbered().counts)
    source = Numbered()
    assert stream(source).info == dataset.info
    assert not source.read_count  # nothing is counted or estimated a second time


def test_files_are_streamed_as_they_are_packed(photos: Path, tmp_path: Path) -> None:
    packed = pack(photos, tmp_path / "pack")
    dataset = open_stream(photos, tmp_path / "stream")
    assert (dataset.info.size, dataset.info.channels, dataset.info.classes) == ((32, 32), 3, packed.info.classes)
    assert dataset.info.name == "photos"
    assert dataset.info.mean == packed.info.mean  # of all, since they are so few
    batch = dataset.batch_at(0, 120)
    known = {image.tobytes() for image in packed.pixels(np.arange(120))}
    assert {image.tobytes() for image in batch} == known
    assert np.array_equal(dataset.first(5), packed.pixels(np.arange(5)))
    dataset.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (9, 9)}, r"stream.json is for size \(8, 8\), not \(9, 9\); remove it to begin anew"),
        ({"channels": 3}, r"stream.json is for channels 1, not 3"),
        ({"source": Numbered(5)}, r"stream.json is of other files than numbers has now; remove it to count them again"),
        ({"world_size": 13}, "numbers has 12 chunks for 13 processes; write smaller shards, or pack it"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, object], message: str, stream: Open) -> None:
    stream()
    with pytest.raises(TrainingError, match=message):
        stream(**options)


@pytest.mark.parametrize("options", [{"rank": 2, "world_size": 2}, {"rank": -1}, {"window": 0}])
def test_values_out_of_range_are_named(options: dict[str, int], stream: Open) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        stream(**options)


def test_a_batch_larger_than_the_set_is_refused(stream: Open) -> None:
    with pytest.raises(ValueError, match="a batch of 60 x 2 does not fit 117 images"):
        stream(world_size=2).batch_at(0, 60)


def test_a_source_that_changed_is_noticed(stream: Open) -> None:
    class Grown(Numbered):
        def read(self, chunk: int) -> Iterator[Sample]:
            yield from super().read(chunk)
            yield Sample("new", b"", None)

    stream()
    with pytest.raises(TrainingError, match=r"chunk \d+ has \d+ images now, not \d+; remove .*stream.json"):
        stream(Grown()).batch_at(0, 4)


def test_closing_ends_the_threads(stream: Open) -> None:
    before = set(threading.enumerate())
    dataset = stream()
    dataset.batch_at(0, 8)
    dataset.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before


def test_a_damaged_index_is_refused(stream: Open, tmp_path: Path) -> None:
    stream()
    (tmp_path / "stream" / "stream.json").write_text('{"info": []}')
    with pytest.raises(TrainingError, match=r"stream.json is damaged: .*; remove it"):
        stream()
