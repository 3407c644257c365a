"""Which patches stay: exact counts, exact inverses, and the same choice for the same noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mae.masking import gather_patches, num_keep, random_masking


@st.composite
def noises(draw: st.DrawFn) -> tuple[Tensor, int]:
    """(noise [N, L], K): distinct values within a row, in any order."""
    n, length = draw(st.integers(1, 4)), draw(st.integers(1, 60))
    rows = [draw(st.permutations(range(length))) for _ in range(n)]
    return torch.tensor(rows, dtype=torch.float32) / length, draw(st.integers(1, length))


@given(noises())
@settings(max_examples=60, deadline=None)
def test_kept_and_removed_come_back_to_their_places(case: tuple[Tensor, int]) -> None:
    noise, keep = case
    n, length = noise.shape
    ids_keep, ids_restore, mask = random_masking(noise, keep)
    assert ids_keep.shape == (n, keep)
    assert (mask.sum(dim=1) == length - keep).all()
    x = torch.randn(n, length, 5)
    kept = gather_patches(x, ids_keep)  # [N, K, 5]
    whole = gather_patches(torch.cat([kept, x.new_full((n, length - keep, 5), torch.inf)], dim=1), ids_restore)
    assert torch.equal(whole, torch.where(mask[:, :, None] > 0, torch.inf, x))


@given(noises())
@settings(max_examples=60, deadline=None)
def test_ids_restore_is_the_inverse_permutation(case: tuple[Tensor, int]) -> None:
    noise, keep = case
    ids_keep, ids_restore, _ = random_masking(noise, keep)
    ids_shuffle = noise.argsort(dim=1)
    assert torch.equal(ids_shuffle.gather(1, ids_restore), torch.arange(noise.shape[1]).expand_as(noise))
    assert torch.equal(ids_restore, ids_shuffle.argsort(dim=1))  # the paper's code sorts twice
    assert torch.equal(ids_keep, ids_shuffle[:, :keep])


@given(noises())
@settings(max_examples=60, deadline=None)
def test_the_smallest_noise_stays(case: tuple[Tensor, int]) -> None:
    noise, keep = case
    mask = random_masking(noise, keep).mask
    highest_kept = noise.masked_fill(mask > 0, -1).amax(dim=1)
    lowest_removed = noise.masked_fill(mask == 0, 2).amin(dim=1)
    assert (highest_kept < lowest_removed).all()


@pytest.mark.parametrize("keep", [0, 17, -1])
def test_a_count_out_of_range_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match=r"num_keep must lie in 1\.\.16, got"):
        random_masking(torch.rand(2, 16), keep)


@pytest.mark.parametrize(
    ("length", "ratio", "keep"),
    [(196, 0.75, 49), (64, 0.75, 16), (64, 0.0, 64), (10, 0.33, 6), (20, 0.8, 3), (4, 0.75, 1)],
)
def test_the_count_is_cut_off_as_in_the_papers_code(length: int, ratio: float, keep: int) -> None:
    """20 * (1 - 0.8) is 3.9999999999999996 in floating point, so 3."""
    assert num_keep(length, ratio) == keep


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="mask_ratio must be at least 0 and below 1, got"):
        num_keep(64, ratio)


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_ratio 0\.9 keeps none of 4 patches"):
        num_keep(4, 0.9)


def test_gather_takes_each_image_by_its_own_ids() -> None:
    x = torch.arange(24.0).reshape(2, 4, 3)
    picked = gather_patches(x, torch.tensor([[2, 0], [1, 1]]))
    assert torch.equal(picked, torch.stack([x[0, [2, 0]], x[1, [1, 1]]]))
