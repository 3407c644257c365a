from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundle.errors import InvalidInput
from bundle.masking import (
    Masking,
    all_ids,
    complementary_maskings,
    keep_ids,
    least_passes,
    masking_from_removed,
    num_keep,
    random_masking,
)

lengths = st.integers(2, 400)
ratios = st.floats(0.01, 0.99)


def check(masking: Masking, num_patches: int, num_kept: int) -> None:
    """What every masking must be: a permutation, told three ways that agree."""
    assert masking.ids_keep.shape == (num_kept,)
    assert masking.ids_keep.dtype == masking.ids_restore.dtype == np.int64
    assert masking.mask.shape == masking.ids_restore.shape == (num_patches,)
    assert masking.mask.dtype == np.float32
    assert sorted(masking.ids_restore) == list(range(num_patches))
    assert np.array_equal(masking.ids_restore[masking.ids_keep], np.arange(num_kept))  # kept ones stand first, in order
    assert np.array_equal(masking.mask == 0, masking.ids_restore < num_kept)


@given(lengths, ratios, st.integers(0, 2**63))
def test_random_masking_round_trip(num_patches: int, ratio: float, seed: int) -> None:
    masking = random_masking(num_patches, ratio, seed)
    check(masking, num_patches, num_keep(num_patches, ratio))
    # What the decoder does: kept tokens, then mask tokens, gathered by ids_restore, puts every patch in its place.
    tokens = np.concatenate([masking.ids_keep, np.full(num_patches - len(masking.ids_keep), -1)])
    restored = tokens[masking.ids_restore]
    assert np.array_equal(restored, np.where(masking.mask == 1, -1, np.arange(num_patches)))


@given(lengths, ratios, st.integers(0, 2**63))
def test_the_same_seed_gives_the_same_masking(num_patches: int, ratio: float, seed: int) -> None:
    first, second = random_masking(num_patches, ratio, seed), random_masking(num_patches, ratio, seed)
    assert np.array_equal(first.ids_keep, second.ids_keep)
    assert np.array_equal(first.ids_restore, second.ids_restore)


def test_seeds_differ_and_cover_every_patch_evenly() -> None:
    masks = np.stack([random_masking(64, 0.75, seed).mask for seed in range(400)])
    assert len(np.unique(masks, axis=0)) == 400
    assert np.abs(masks.mean(axis=0) - 0.75).max() < 0.1  # 4.6 standard deviations


def test_a_seed_means_the_same_patches_in_every_version() -> None:
    """Callers store seeds. Should this fail, numpy changed its generator, and the seeds' meaning with it."""
    assert random_masking(16, 0.75, 7).ids_keep.tolist() == [6, 3, 12, 11]


@pytest.mark.parametrize(
    ("num_patches", "ratio", "expected"), [(196, 0.75, 49), (16, 0.9, 1), (16, 0.99, 1), (3, 0.5, 1)]
)
def test_num_keep_is_the_papers_and_at_least_one(num_patches: int, ratio: float, expected: int) -> None:
    assert num_keep(num_patches, ratio) == expected


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, float("nan")])
def test_a_ratio_outside_its_range_is_named(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"ratio must lie between 0 and 1, got {ratio}"):
        random_masking(16, ratio, 0)


def test_all_ids() -> None:
    ids = all_ids(3, 5)
    assert ids.dtype == np.int64
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 3


@given(lengths, ratios, st.integers(0, 2**63), st.integers(1, 40))
def test_complementary_maskings_hide_every_patch_equally_often(
    num_patches: int, ratio: float, seed: int, num_passes: int
) -> None:
    maskings = complementary_maskings(num_patches, ratio, seed, num_passes)
    assert len(maskings) == num_passes
    for masking in maskings:
        check(masking, num_patches, num_keep(num_patches, ratio))
    hidden = np.sum([masking.mask for masking in maskings], axis=0)  # [L]
    assert hidden.max() - hidden.min() <= 1
    assert (hidden.min() > 0) == (num_passes >= least_passes(num_patches, ratio))


@given(lengths, ratios, st.integers(0, 2**63))
def test_fewer_passes_are_the_beginning_of_more_and_the_first_is_the_random_one(
    num_patches: int, ratio: float, seed: int
) -> None:
    more = complementary_maskings(num_patches, ratio, seed, 9)
    for mine, other in zip(complementary_maskings(num_patches, ratio, seed, 4), more[:4], strict=True):
        assert np.array_equal(mine.ids_restore, other.ids_restore)
    assert np.array_equal(more[0].ids_restore, random_masking(num_patches, ratio, seed).ids_restore)


@pytest.mark.parametrize(("ratio", "period"), [(0.75, 4), (0.5, 2), (0.25, 4), (0.625, 8)])
def test_once_round_the_circle_another_order_is_drawn(ratio: float, period: int) -> None:
    masks = np.stack([masking.mask for masking in complementary_maskings(64, ratio, 5, 4 * period)])
    assert len(np.unique(masks, axis=0)) == 4 * period
    once = masks.reshape(4, period, 64).sum(axis=1)  # [rounds, L]
    assert (once == once[0, 0]).all()


@pytest.mark.parametrize(("ratio", "least"), [(0.75, 2), (0.5, 2), (0.4, 3), (0.25, 4), (0.01, 64), (0.99, 2)])
def test_so_many_passes_hide_all(ratio: float, least: int) -> None:
    assert least_passes(64, ratio) == least


def test_one_patch_alone_cannot_be_hidden() -> None:
    with pytest.raises(ValueError, match="an image of one patch has none to remove"):
        complementary_maskings(1, 0.5, 0, 2)


@given(lengths, st.data())
def test_masking_from_removed_removes_just_those(num_patches: int, data: st.DataObject) -> None:
    removed = data.draw(st.lists(st.integers(0, num_patches - 1), min_size=1, max_size=num_patches - 1, unique=True))
    masking = masking_from_removed(num_patches, removed)
    check(masking, num_patches, num_patches - len(removed))
    assert np.flatnonzero(masking.mask).tolist() == sorted(removed)
    assert masking.ids_keep.tolist() == sorted(set(range(num_patches)) - set(removed))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ([1, 2, 1], "names a patch twice"),
        ([16], "from 0 to 15"),
        ([-1], "from 0 to 15"),
        ([2**62], "from 0 to 15"),
        ([], "between 1 and 15 of the 16 patches, got 0"),
        (list(range(16)), "between 1 and 15 of the 16 patches, got 16"),
    ],
)
def test_a_mask_that_makes_no_sense_is_the_callers_mistake(removed: list[int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        masking_from_removed(16, removed)
    assert caught.value.param == "mask"


@given(st.integers(1, 1000), st.floats(0.001, 1))
def test_keep_ids_are_sorted_unique_and_spread(num_patches: int, keep: float) -> None:
    ids = keep_ids(num_patches, keep)
    assert ids.dtype == np.int64
    assert len(ids) == max(1, round(num_patches * keep))
    assert (np.diff(ids) > 0).all()
    assert 0 <= ids[0] <= ids[-1] < num_patches
    gaps = np.diff(np.concatenate([[-1], ids, [num_patches]]))
    assert gaps.max() <= 2 * np.ceil(num_patches / len(ids))


def test_keep_ids_at_one_are_all() -> None:
    assert np.array_equal(keep_ids(196, 1), np.arange(196))


@pytest.mark.parametrize("side", [7, 8, 12, 14, 16])
def test_keep_ids_draw_no_stripes_at_a_half(side: int) -> None:
    """Every second patch of an even row would keep whole columns and drop their neighbours."""
    kept = np.zeros(side * side)
    kept[keep_ids(side * side, 0.5)] = 1
    for axis in (0, 1):
        share = kept.reshape(side, side).mean(axis=axis)
        assert share.min() > 0
        assert share.max() < 1


@pytest.mark.parametrize("side", [8, 14, 16])
@pytest.mark.parametrize("keep", [0.75, 0.5, 0.25])
def test_keep_ids_leave_smaller_holes_than_chance(side: int, keep: float) -> None:
    rows, columns = np.divmod(np.arange(side * side), side)

    def mean_hole(ids: NDArray[np.int64]) -> float:
        """The mean distance from a patch to the nearest one kept."""
        squares = (rows[:, None] - rows[ids]) ** 2 + (columns[:, None] - columns[ids]) ** 2  # [L, K]
        return float(np.sqrt(squares.min(axis=1)).mean())

    ids = keep_ids(side * side, keep)
    by_chance = [random_masking(side * side, 0.5, seed).ids_restore[: len(ids)] for seed in range(30)]
    assert mean_hole(ids) < np.mean([mean_hole(other) for other in by_chance])


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, float("nan")])
def test_keep_outside_its_range_is_named(keep: float) -> None:
    with pytest.raises(ValueError, match=f"keep must lie above 0 and at most at 1, got {keep}"):
        keep_ids(16, keep)
