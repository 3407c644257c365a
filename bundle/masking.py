"""Which patches the encoder sees, in numpy: the graphs take ids as inputs, so that randomness stays outside of them.

Letters: N images, L patches, K patches kept. Patches are numbered row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidInput

_GOLDEN = (5**0.5 - 1) / 2  # the step whose multiples modulo 1 cover [0, 1) most evenly


@dataclass(frozen=True, eq=False)
class Masking:
    """One image's masking. The encoder sees patches `ids_keep`, in that order.

    The decoder is given the K kept tokens, then L - K mask tokens; `ids_restore[i]` is where patch i stands there.
    """

    ids_keep: NDArray[np.int64]  # [K]
    ids_restore: NDArray[np.int64]  # [L]
    mask: NDArray[np.float32]  # [L], 1 = removed


def num_keep(num_patches: int, ratio: float) -> int:
    """K = int(L * (1 - ratio)), at least 1 (He et al. 2021, arXiv 2111.06377). ratio: the part removed, in (0, 1).

    Below L too, however small the ratio, unless L is 1.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must lie between 0 and 1, got {ratio}")
    return max(1, min(num_patches - 1, int(num_patches * (1 - ratio))))


def all_ids(num_images: int, num_patches: int) -> NDArray[np.int64]:
    """[N, L]: every patch of every image, for a plain embedding. Read-only; one row is shared by all."""
    return np.broadcast_to(np.arange(num_patches, dtype=np.int64), (num_images, num_patches))


def random_masking(num_patches: int, ratio: float, seed: int) -> Masking:
    """Remove a random part of the patches, the same for the same seed. seed: not negative."""
    ids_shuffle = np.random.default_rng(seed).random(num_patches).argsort(kind="stable")  # [L]
    return _masking(ids_shuffle, num_keep(num_patches, ratio))


def least_passes(num_patches: int, ratio: float) -> int:
    """ceil(L / (L - K)): how many maskings it takes to remove every patch once.

    ValueError if L is 1, and for a ratio outside (0, 1).
    """
    if num_patches < 2:
        raise ValueError("an image of one patch has none to remove")
    return -(-num_patches // (num_patches - num_keep(num_patches, ratio)))


def complementary_maskings(num_patches: int, ratio: float, seed: int, num_passes: int) -> list[Masking]:
    """`num_passes` maskings that remove every patch as often as any other, or once more; at least once from
    `least_passes` on.

    The patches lie on a circle in an order drawn by the seed, and each masking removes the L - K that follow those
    which the last one removed. After L / gcd(L, L - K) of them the removed sets would come again: another order is
    drawn, so that more passes hide a patch among other neighbours. The first masking is `random_masking`'s, and fewer
    passes are the beginning of more. ValueError as from `least_passes`.
    """
    least_passes(num_patches, ratio)
    k = num_keep(num_patches, ratio)
    step = num_patches - k
    period = num_patches // math.gcd(num_patches, step)
    rng = np.random.default_rng(seed)
    maskings: list[Masking] = []
    while len(maskings) < num_passes:
        circle = rng.random(num_patches).argsort(kind="stable")  # [L]
        turns = min(period, num_passes - len(maskings))
        maskings += [_masking(np.roll(circle, -turn * step), k) for turn in range(turns)]
    return maskings


def masking_from_removed(num_patches: int, removed: Sequence[int]) -> Masking:
    """Remove the patches named; those kept stay in order.

    InvalidInput if an id is out of range or named twice, or if no patch would be removed or kept.
    """
    ids_removed = np.unique(np.asarray(removed, dtype=np.int64))  # [L - K], sorted
    if len(ids_removed) != len(removed):
        raise InvalidInput("mask names a patch twice", param="mask")
    if not 0 < len(ids_removed) < num_patches:
        raise InvalidInput(
            f"mask must remove between 1 and {num_patches - 1} of the {num_patches} patches, got {len(removed)}",
            param="mask",
        )
    if ids_removed[0] < 0 or ids_removed[-1] >= num_patches:
        raise InvalidInput(f"mask must name patches from 0 to {num_patches - 1}", param="mask")
    ids_kept = np.setdiff1d(np.arange(num_patches, dtype=np.int64), ids_removed, assume_unique=True)  # [K]
    return _masking(np.concatenate([ids_kept, ids_removed]), len(ids_kept))


def keep_ids(num_patches: int, keep: float) -> NDArray[np.int64]:
    """[K], sorted: the same evenly spread subset every time, K = round(L * keep), at least 1. keep: in (0, 1].

    The patches are cut into K runs and one patch is taken from each, at an offset that varies from run to run: no large
    holes, yet no stripes where a run's length divides the row's.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie above 0 and at most at 1, got {keep}")
    k = max(1, round(num_patches * keep))
    bounds = np.arange(k + 1, dtype=np.int64) * num_patches // k  # [K + 1]
    offset = np.arange(k) * _GOLDEN % 1  # [K], in [0, 1)
    return bounds[:-1] + (offset * np.diff(bounds)).astype(np.int64)


def _masking(ids_shuffle: NDArray[np.int64], k: int) -> Masking:
    """ids_shuffle: [L], a permutation; its first k stay."""
    ids_keep = ids_shuffle[:k]
    ids_restore = np.empty_like(ids_shuffle)
    ids_restore[ids_shuffle] = np.arange(len(ids_shuffle), dtype=np.int64)
    mask = np.ones(len(ids_shuffle), dtype=np.float32)
    mask[ids_keep] = 0
    return Masking(ids_keep=ids_keep, ids_restore=ids_restore, mask=mask)
