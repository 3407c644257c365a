"""bulk.index_recall: exact neighbours are exact, and a search that misses some is told so."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bulk.index_recall import best_cosines, recall
from tests.bulk.index_input import clustered


def test_the_best_cosines_are_those_of_comparing_all_whatever_the_batches() -> None:
    rng = np.random.default_rng(0)
    rows = clustered(500) * rng.uniform(0.1, 10, (500, 1)).astype(np.float32)  # lengths do not matter
    queries = clustered(7, seed=1) * 3
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = -np.sort(-(queries / 3 @ unit.T), axis=1)[:, :10]
    for size in (500, 64, 3):
        found = best_cosines(queries, (rows[i : i + size] for i in range(0, 500, size)), 10)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_recall_is_the_share_of_the_nearest_that_is_found() -> None:
    rows, queries = clustered(300), clustered(20, seed=1)
    exact = best_cosines(queries, [rows], 10)

    def search(query: NDArray[np.float32], k: int, *, skip: int = 0) -> NDArray[np.float32]:
        return rows[np.argsort(-(rows @ query))[skip : skip + k]]

    assert recall(queries, exact, search) == 1
    assert recall(queries, exact, lambda query, k: search(query, k, skip=3)) == pytest.approx(0.7)
    assert recall(queries, exact, lambda query, k: search(query, k // 2)) == pytest.approx(0.5)


def test_rows_that_are_as_near_as_the_last_one_count() -> None:
    """The same image under several names: which of them is found is nobody's merit."""
    rows = np.repeat(clustered(30), 20, axis=0)
    query = rows[:1]
    exact = best_cosines(query, [rows], 10)
    assert recall(query, exact, lambda q, k: rows[10 : 10 + k] if len(q) else rows) == 1


def test_fewer_rows_than_are_asked_for() -> None:
    rows = clustered(4)
    exact = best_cosines(rows[:2], [rows], 10)
    assert np.isfinite(exact).sum() == 8
    assert recall(rows[:2], exact, lambda _q, _k: rows) == 1
    assert recall(rows[:2], exact, lambda q, _k: rows[np.argsort(-(rows @ q))[:2]]) == 0.5
