"""How many of the nearest rows a search finds, by comparison with all rows.

Letters: Q queries, N rows, K rows asked for, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

K = 10
_EQUAL = 1e-6  # of two cosines in float32: images that are there twice are as good as one another


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors [N, D] at length 1."""
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


def best_cosines(queries: NDArray[np.float32], rows: Iterable[NDArray[np.float32]], k: int) -> NDArray[np.float32]:
    """The cosines [Q, K] of the k rows most like each query [Q, D], best first. rows: all of them, some [N, D] each."""
    queries = unit(queries)
    best = np.full((len(queries), k), -np.inf, np.float32)  # [Q, K]
    for some in rows:
        cosines = np.concatenate([best, queries @ unit(some).T], axis=1)  # [Q, K + N]
        best = -np.partition(-cosines, k - 1, axis=1)[:, :k]
    return -np.sort(-best, axis=1)


def recall(
    queries: NDArray[np.float32],
    exact: NDArray[np.float32],
    search: Callable[[NDArray[np.float32], int], NDArray[np.float32]],
) -> float:
    """The mean share of what `search`, from a query [D] and K to vectors [K, D], finds that belongs to the K nearest.

    exact: their cosines [Q, K]. A row that is as near as the last of them belongs to them.
    """
    k, shares = exact.shape[1], []
    for query, cosines in zip(queries, exact, strict=True):
        found = unit(search(query, k)) @ (query / np.linalg.norm(query))  # [K]
        shares.append(np.count_nonzero(found >= cosines[-1] - _EQUAL) / np.count_nonzero(np.isfinite(cosines)))
    return float(np.mean(shares))
