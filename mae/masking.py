"""Which patches the encoder sees. Letters: N images, L patches, K patches kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Masking(NamedTuple):
    """ids_keep: i64 [N, K]; ids_restore: i64 [N, L], place in [kept, removed]; mask: f32 [N, L], 1 = removed."""

    ids_keep: Tensor
    ids_restore: Tensor
    mask: Tensor


def num_keep(num_patches: int, ratio: float) -> int:
    """K = int(L * (1 - ratio)), as in the paper's code; 0 removes nothing. Raises ValueError where nothing is kept."""
    if not 0 <= ratio < 1:
        raise ValueError(f"mask_ratio must be at least 0 and below 1, got {ratio}")
    keep = int(num_patches * (1 - ratio))
    if keep < 1:
        raise ValueError(f"mask_ratio {ratio} keeps none of {num_patches} patches; lower it")
    return keep


def random_masking(noise: Tensor, num_keep: int) -> Masking:
    """Choose the patches that stay. noise: [N, L]; the smallest num_keep of each row stay (He et al. 2021, sec. 3)."""
    n, length = noise.shape
    if not 0 < num_keep <= length:
        raise ValueError(f"num_keep must lie in 1..{length}, got {num_keep}")
    ids_shuffle = noise.argsort(dim=1)  # [N, L]
    places = torch.arange(length, device=noise.device).expand(n, length)
    ids_restore = torch.empty_like(ids_shuffle).scatter_(1, ids_shuffle, places)  # [N, L]: the inverse permutation
    return Masking(ids_shuffle[:, :num_keep], ids_restore, (ids_restore >= num_keep).float())


def gather_patches(x: Tensor, ids: Tensor) -> Tensor:
    """[N, L, D] and i64 [N, K] -> [N, K, D]."""
    return x.gather(1, ids[:, :, None].expand(-1, -1, x.shape[2]))
