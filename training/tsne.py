"""Where features lie, as a picture of points: t-SNE in two dimensions (van der Maaten and Hinton 2008)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 2000  # beyond that neither the seconds nor the ink are well spent
_MIN_POINTS = 4
_PCA_DIMS = 50
_PERPLEXITY = 30.0
_INIT_STD = 1e-4  # small against the map that grows from it, as in the paper


def sample_points(num: int, seed: int, most: int = MAX_POINTS) -> NDArray[np.int64]:
    """A random `most` of `num` points, all where there are no more: sorted i64 ids."""
    return np.sort(np.random.default_rng(seed).permutation(num)[:most])


def tsne(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """f32 [N, D] -> f32 [N, 2]: neighbours stay neighbours; distances between groups and directions mean nothing.

    The features are reduced to 50 principal components first, and the map starts from the first two. `seed` settles the
    rest. Raises ValueError for fewer than 4 points or more than MAX_POINTS (see `sample_points`), or values that are
    not finite.
    """
    if features.ndim != 2 or not _MIN_POINTS <= len(features) <= MAX_POINTS:
        raise ValueError(f"t-SNE takes {_MIN_POINTS} to {MAX_POINTS} points [N, D], got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("t-SNE takes finite features; these hold a value that is not")
    from sklearn.manifold import TSNE  # two seconds of imports, for pages alone

    components = _principal(features.astype(np.float32))  # [N, 50 or fewer]
    init = np.zeros((len(features), 2), np.float32)
    init[:, : components.shape[1]] = components[:, :2]
    init *= _INIT_STD / max(float(init[:, 0].std()), 1e-30)
    fit = TSNE(perplexity=min(_PERPLEXITY, (len(features) - 1) / 3), init=init, random_state=seed)
    return fit.fit_transform(components).astype(np.float32)  # type: ignore[no-any-return]


def _principal(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores [N, min(50, N, D)] on the principal components, greatest variance first."""
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    scores: NDArray[np.float32] = u[:, :_PCA_DIMS] * s[:_PCA_DIMS]
    return scores
