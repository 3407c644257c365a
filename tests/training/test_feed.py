"""Batches in order, from wherever the pixels live, and the time that was spent waiting for them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.feed import AheadFeed, Plan, ResidentFeed, open_feed
from training.packed import PackedDataset, epoch_order

CPU = torch.device("cpu")


def test_an_epoch_has_every_image_once_in_whole_batches() -> None:
    plan = Plan(num_images=25, batch_size=6, seed=3)
    assert plan.per_epoch == 4
    for epoch in (0, 1, 7):
        seen = np.concatenate([plan.ids(epoch * 4 + place) for place in range(4)])
        assert sorted(seen) == sorted(epoch_order(25, epoch, 3)[:24])
    assert not np.array_equal(plan.ids(0), plan.ids(4))
    assert np.array_equal(plan.ids(5), np.sort(plan.ids(5)))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_a_batch(world_size: int) -> None:
    whole = Plan(num_images=50, batch_size=12, seed=0)
    parts = [Plan(num_images=50, batch_size=12, seed=0, rank=r, world_size=world_size) for r in range(world_size)]
    for step in (0, 3, 9):
        assert np.array_equal(np.sort(np.concatenate([part.ids(step) for part in parts])), whole.ids(step))
        for part in parts:
            assert np.array_equal(part.ids(step), whole.ids(step)[part.rows])
            assert np.array_equal(part.of_all.ids(step), whole.ids(step))


def test_processes_see_every_class_of_a_sorted_set() -> None:
    """A folder's images come class by class, and mixing is done within a process."""
    parts = [Plan(num_images=1000, batch_size=400, seed=0, rank=r, world_size=4) for r in range(4)]
    for part in parts:
        assert len(np.unique(part.ids(0) // 100)) == 10


def test_a_plan_of_a_subset_names_the_subsets_images() -> None:
    subset = np.array([3, 5, 8, 13, 21, 34])
    plan = Plan(num_images=6, batch_size=3, seed=1, subset=subset)
    assert sorted(np.concatenate([plan.ids(0), plan.ids(1)])) == subset.tolist()


@pytest.mark.parametrize("choice", ["resident", "mapped", "auto"])
def test_every_feed_gives_the_plans_pixels_from_any_step_on(choice: str, packed: PackedDataset) -> None:
    plan = Plan(num_images=len(packed), batch_size=30, seed=0)
    feed = open_feed(packed, plan, CPU, choice)  # type: ignore[arg-type]
    try:
        for step in (5, 6, 7, 8, 40, 41, 2):
            pixels = feed.get(step)
            assert pixels.dtype == torch.uint8
            assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), packed.pixels(plan.ids(step)))
    finally:
        feed.close()


def test_on_a_cpu_the_set_stays_on_disk(packed: PackedDataset) -> None:
    plan = Plan(num_images=len(packed), batch_size=30, seed=0)
    feed = open_feed(packed, plan, CPU)
    feed.close()
    assert isinstance(feed, AheadFeed)
    assert feed.name == "mapped, 0.0 GB on disk"
    assert ResidentFeed(packed, plan, CPU).name == "resident, 0.0 GB on cpu"


def batch(step: int) -> NDArray[np.uint8]:
    return np.full((2, 4, 4, 3), step, np.uint8)


def test_the_next_batches_are_read_while_one_is_used() -> None:
    read: list[int] = []

    def slow(step: int) -> NDArray[np.uint8]:
        time.sleep(0.05)
        read.append(step)
        return batch(step)

    feed = AheadFeed(slow, CPU, "slow")
    try:
        feed.get(0)
        first = feed.waited_s
        assert first >= 0.05
        time.sleep(0.3)
        assert read == [0, 1, 2, 3]
        assert int(feed.get(1)[0, 0, 0, 0]) == 1
        assert feed.waited_s - first < 0.02  # it was there
    finally:
        feed.close()


def test_an_error_of_the_reader_comes_out_and_the_threads_end() -> None:
    def broken(step: int) -> NDArray[np.uint8]:
        if step == 2:
            raise OSError("the disk is gone")
        return batch(step)

    before = threading.active_count()
    feed = AheadFeed(broken, CPU, "broken")
    feed.get(0)
    feed.get(1)
    with pytest.raises(OSError, match="the disk is gone"):
        feed.get(2)
    feed.close()
    assert threading.active_count() == before


def test_a_feed_reads_a_run_of_a_moved_set(packed: PackedDataset, tmp_path: Path) -> None:
    """By ids alone: where the set lies does not matter."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in packed.folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    plan = Plan(num_images=len(packed), batch_size=30, seed=0)
    feeds = [open_feed(where, plan, CPU) for where in (packed, PackedDataset(moved))]
    assert torch.equal(feeds[0].get(0), feeds[1].get(0))
    for feed in feeds:
        feed.close()
