"""Position tables, against the formula written out in numpy, and their interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mae.pos_embed import interpolate, sincos_2d


def by_hand(dim: int, grid: tuple[int, int]) -> NDArray[np.float64]:
    """[1 + L, D]: the columns are sine and cosine of the column w, then sine and cosine of the row h."""
    table = np.zeros((1 + grid[0] * grid[1], dim))
    quarter = dim // 4
    for h in range(grid[0]):
        for w in range(grid[1]):
            for i in range(quarter):
                frequency = 1 / 10000 ** (i / quarter)
                row = table[1 + h * grid[1] + w]
                row[i], row[quarter + i] = np.sin(w * frequency), np.cos(w * frequency)
                row[2 * quarter + i], row[3 * quarter + i] = np.sin(h * frequency), np.cos(h * frequency)
    return table


@pytest.mark.parametrize(("dim", "grid"), [(16, (3, 3)), (24, (2, 5)), (12, (6, 1)), (192, (8, 8))])
def test_the_formula(dim: int, grid: tuple[int, int]) -> None:
    table = sincos_2d(dim, grid)
    assert table.shape == (1, 1 + grid[0] * grid[1], dim)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table[0].numpy(), by_hand(dim, grid), atol=1e-7)


def test_the_same_grid_gives_the_same_table() -> None:
    table = sincos_2d(16, (3, 5))
    assert torch.equal(interpolate(table, (3, 5), (3, 5)), table)


def test_rows_and_columns_are_interpolated_apart() -> None:
    """A table whose first half is a function of the column and second of the row stays one: nothing mixes the axes."""
    table = interpolate(sincos_2d(16, (4, 6)), (4, 6), (8, 9))
    assert table.shape == (1, 1 + 72, 16)
    image = table[0, 1:].reshape(8, 9, 16)
    torch.testing.assert_close(image[:, :, :8], image[:1, :, :8].expand(8, -1, -1))
    torch.testing.assert_close(image[:, :, 8:], image[:, :1, 8:].expand(-1, 9, -1))


def test_a_doubled_grid_lies_between_the_old_positions() -> None:
    """New position i sits at (i + 0.5) / 2 - 0.5; a shift by half a position would be 8e-5 at the lowest frequency."""
    dim, old, new = 32, (8, 8), (16, 16)
    table = interpolate(sincos_2d(dim, old), old, new)[0, 1:].reshape(*new, dim)
    slowest = 1 / 10000 ** (7 / 8)
    expected = np.sin(((np.arange(16) + 0.5) / 2 - 0.5) * slowest)
    inside = slice(3, 13)  # at the edge there is nothing to interpolate towards
    np.testing.assert_allclose(table[0, inside, 7].numpy(), expected[inside], atol=2e-5)
    np.testing.assert_allclose(table[inside, 0, 16 + 7].numpy(), expected[inside], atol=2e-5)


def test_the_cls_row_stays() -> None:
    table = sincos_2d(16, (4, 4))
    table[:, 0] = 3.0
    assert (interpolate(table, (4, 4), (2, 7))[:, 0] == 3.0).all()


def test_a_table_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a position table of 17 rows does not fit a grid of \(4, 5\)"):
        interpolate(sincos_2d(16, (4, 4)), (4, 5), (8, 8))
