"""Slots of shared memory: where their parts lie, and who sees them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from bundle.errors import Overloaded
from bundle.store import Bundle
from service.ipc.arena import Arena, Layout, Slots, open_memory
from service.ipc.framing import ProtocolError
from tests.service.helpers import DIM, NUM_PATCHES, PATCH_DIM, make_bundle


@pytest.fixture
def layout(fake_bundle: Bundle) -> Layout:
    return Layout.of(fake_bundle.manifest)


def test_a_slot_holds_the_longest_result(layout: Layout) -> None:
    assert layout.image_shape == (32, 32, 3)
    assert layout.max_values == 2 * NUM_PATCHES * PATCH_DIM  # what a decoder gives
    assert (layout.ids_keep, layout.ids_restore, layout.values) == (3072, 3072 + 128, 3072 + 256)
    end = layout.values + 4 * layout.max_values
    assert end <= layout.slot_bytes < end + mmap.PAGESIZE
    assert layout.slot_bytes % mmap.PAGESIZE == 0


def test_without_a_decoder_it_is_every_feature_at_once(tmp_path: Path) -> None:
    layout = Layout.of(make_bundle(tmp_path / "b", "encoder").manifest)
    assert layout.max_values == (1 + 1 + NUM_PATCHES + 1 + NUM_PATCHES) * DIM


def test_parts_do_not_touch_each_other(layout: Layout) -> None:
    fd = open_memory(2 * layout.slot_bytes)
    mine, its = Arena(fd, layout, 2), Arena(fd, layout, 2)
    os.close(fd)
    for slot in (0, 1):
        mine.pixels(slot)[:] = 10 + slot
        mine.ids_keep(slot, NUM_PATCHES)[:] = 20 + slot
        mine.ids_restore(slot)[:] = 30 + slot
        its.values(slot, layout.max_values)[:] = 40 + slot
    for slot in (0, 1):  # each sees what the other wrote
        assert np.all(its.pixels(slot) == 10 + slot)
        assert np.all(its.ids_keep(slot, NUM_PATCHES) == 20 + slot)
        assert np.all(its.ids_restore(slot) == 30 + slot)
        assert np.all(mine.values(slot, layout.max_values) == 40 + slot)


def test_a_text_takes_the_place_of_the_values(layout: Layout) -> None:
    fd = open_memory(layout.slot_bytes)
    arena = Arena(fd, layout, 1)
    os.close(fd)
    assert arena.read_text(0, arena.write_text(0, "encoder: zu groß")) == "encoder: zu groß"
    assert arena.write_text(0, "x" * 10**6) == 4 * layout.max_values


def test_memory_of_another_size_is_refused(layout: Layout) -> None:
    fd = open_memory(layout.slot_bytes)
    with pytest.raises(ProtocolError, match=f"{layout.slot_bytes} bytes of shared memory"):
        Arena(fd, layout, 2)
    os.close(fd)


def test_memory_that_nobody_wrote_to_takes_none(layout: Layout) -> None:
    fd = open_memory(1000 * layout.slot_bytes)
    Arena(fd, layout, 1000).pixels(7)[:] = 1
    assert os.fstat(fd).st_blocks * 512 <= 8 * mmap.PAGESIZE
    os.close(fd)


def test_the_slot_given_back_last_is_taken_first() -> None:
    slots = Slots(3)
    assert [slots.take() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Overloaded, match="all 3 places are taken"):
        slots.take()
    slots.give(1)
    slots.give(0)
    assert (slots.take(), slots.taken) == (0, 2)
