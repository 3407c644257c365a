"""Fixed 2-D sin-cos position tables, and their interpolation to another grid.

Letters: L patches, D width. A table's row 0 belongs to the cls token and is zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_2d(dim: int, grid: tuple[int, int]) -> Tensor:
    """The table of He et al. 2021: f32 [1, 1 + L, D], columns [sin_w, cos_w, sin_h, cos_h]; grid: (rows, columns).

    Computed in float64, since float32 frequencies differ in the last bits between machines.
    """
    rows = torch.arange(grid[0], dtype=torch.float64)
    cols = torch.arange(grid[1], dtype=torch.float64)
    y, x = torch.meshgrid(rows, cols, indexing="ij")
    table = torch.cat([_sincos_1d(dim // 2, x.flatten()), _sincos_1d(dim // 2, y.flatten())], dim=1)  # [L, D]
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), table])[None].float()  # [1, 1 + L, D]


def _sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """[L] -> [L, dim]: sin then cos at frequencies 10000^(-2i/dim) (Vaswani et al. 2017, sec. 3.5)."""
    omega = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions[:, None] * omega  # [L, dim / 2]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def interpolate(table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resample a table [1, 1 + L, D] bicubically in 2-D to another grid; the cls row is kept as it is."""
    if table.shape[1] != 1 + old_grid[0] * old_grid[1]:
        raise ValueError(f"a position table of {table.shape[1]} rows does not fit a grid of {old_grid}")
    if old_grid == new_grid:
        return table
    dim = table.shape[2]
    image = table[:, 1:].reshape(1, *old_grid, dim).permute(0, 3, 1, 2)  # [1, D, h, w]
    image = F.interpolate(image.float(), size=new_grid, mode="bicubic", align_corners=False)
    patches = image.permute(0, 2, 3, 1).reshape(1, -1, dim)  # [1, L', D]
    return torch.cat([table[:, :1], patches.to(table.dtype)], dim=1)
