"""t-SNE: groups that lie apart stay apart, and a seed gives one map."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.tsne import MAX_POINTS, sample_points, tsne


def groups(per_group: int, dim: int) -> NDArray[np.float32]:
    """Three of them, ten deviations apart, one after the other: f32 [3 * per_group, dim]."""
    rng = np.random.default_rng(0)
    centers = 10 * np.eye(3, dim)
    return (np.repeat(centers, per_group, axis=0) + rng.normal(0, 1, (3 * per_group, dim))).astype(np.float32)


@pytest.mark.parametrize(("per_group", "dim"), [(40, 80), (40, 3), (3, 80)])
def test_groups_stay_apart(per_group: int, dim: int) -> None:
    """Each point's nearest neighbour on the map is of its own group."""
    points = tsne(groups(per_group, dim), 0)
    assert points.shape == (3 * per_group, 2)
    assert points.dtype == np.float32
    distances = np.square(points[:, None] - points[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    group = np.repeat(np.arange(3), per_group)
    assert (group[distances.argmin(axis=1)] == group).mean() > 0.95


def test_a_seed_is_a_map() -> None:
    features = groups(20, 10)
    np.testing.assert_array_equal(tsne(features, 3), tsne(features, 3))


@pytest.mark.parametrize("features", [np.full((10, 4), 7, np.float32), np.arange(8, dtype=np.float32)[:, None]])
def test_features_without_two_directions_still_give_points(features: NDArray[np.float32]) -> None:
    assert np.isfinite(tsne(features, 0)).all()


def test_a_sample_is_seeded_sorted_and_without_repeats() -> None:
    ids = sample_points(5000, 0)
    assert len(ids) == len(np.unique(ids)) == MAX_POINTS
    np.testing.assert_array_equal(ids, np.sort(ids))
    np.testing.assert_array_equal(ids, sample_points(5000, 0))
    assert not np.array_equal(ids, sample_points(5000, 1))
    np.testing.assert_array_equal(sample_points(7, 0), np.arange(7))


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((3, 5), 0.0, r"takes 4 to 2000 points \[N, D\], got \(3, 5\)"),
        ((2001, 5), 0.0, "takes 4 to 2000 points"),
        ((10,), 0.0, "takes 4 to 2000 points"),
        ((10, 5), np.nan, "takes finite features"),
    ],
)
def test_what_has_no_map_is_refused(shape: tuple[int, ...], value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tsne(np.full(shape, value, np.float32), 0)
