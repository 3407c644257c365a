"""The page's linear algebra against numpy's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page

Array = NDArray[Any]

_PRINCIPAL = """async ({ values, dim, count }) => {
  const { principal, project } = await import("/static/algebra.js");
  const vectors = Float32Array.from(values);
  const fit = principal(vectors, dim, count);
  return { axes: fit.axes.map((axis) => [...axis]), variances: [...fit.variances], total: fit.total,
    scores: fit.scores.map((each) => [...each]), projected: project(vectors, fit).map((each) => [...each]) };
}"""
_COSINES = """async ({ values, dim, index }) => {
  const { cosinesTo, units } = await import("/static/algebra.js");
  return [...cosinesTo(units(Float32Array.from(values), dim), dim, index)];
}"""
_EIGEN = """async (matrix) => {
  const { symmetricEigen } = await import("/static/algebra.js");
  const { values, vectors } = symmetricEigen(matrix);
  return { values, vectors: vectors.map((vector) => [...vector]) };
}"""


@pytest.fixture(scope="module")
def page(browser: Browser, service: str) -> Iterator[Page]:
    """One for all of these tests, which take nothing from it but its modules."""
    page = browser.new_page()
    page.goto(service)
    yield page
    page.close()


def _principal(page: Page, vectors: Array, count: int = 3) -> dict[str, Array]:
    given = {"values": vectors.ravel().tolist(), "dim": vectors.shape[1], "count": count}
    return {name: np.array(value) for name, value in page.evaluate(_PRINCIPAL, given).items()}


def _vectors(rows: int, dim: int, seed: int = 0, decay: float = 0.8) -> Array:
    """float32 [rows, dim]: a mean that is not zero, directions of falling variance, and noise in all of them."""
    rng = np.random.default_rng(seed)
    strengths = decay ** np.arange(10)
    factors = (rng.normal(size=(rows, 10)) * strengths) @ rng.normal(size=(10, dim))
    return (3 + factors + 0.2 * rng.normal(size=(rows, dim))).astype(np.float32)


# More vectors than values, fewer, as many, both small and of sizes that four does not divide.
@pytest.mark.parametrize(("rows", "dim"), [(64, 192), (300, 32), (48, 48), (7, 50), (50, 7), (4, 3), (2, 9)])
def test_components_are_those_of_a_singular_value_decomposition(page: Page, rows: int, dim: int) -> None:
    vectors = _vectors(rows, dim)
    found = _principal(page, vectors)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    count = min(3, rows - 1, dim)
    assert found["axes"].shape == (count, dim)
    np.testing.assert_allclose(found["variances"], singular[:count] ** 2 / rows, rtol=1e-5)
    np.testing.assert_allclose(found["total"], (singular**2).sum() / rows, rtol=1e-5)
    signs = np.sign((found["axes"] * right[:count]).sum(axis=1, keepdims=True))  # an axis may point to either side
    np.testing.assert_allclose(found["axes"], signs * right[:count], atol=2e-3)
    scores = signs * (left[:, :count] * singular[:count]).T
    np.testing.assert_allclose(found["scores"], scores, atol=2e-3 * np.abs(scores).max())
    np.testing.assert_allclose(found["projected"], found["scores"], atol=1e-6 * np.abs(scores).max())


def test_the_same_vectors_give_the_same_axes_in_whatever_order_they_come(page: Page) -> None:
    vectors = _vectors(40, 16)
    first, again = _principal(page, vectors), _principal(page, vectors)
    turned = _principal(page, vectors[np.random.default_rng(1).permutation(40)])
    np.testing.assert_array_equal(first["axes"], again["axes"])
    np.testing.assert_allclose(first["axes"], turned["axes"], atol=2e-3)
    largest = np.take_along_axis(first["axes"], np.abs(first["axes"]).argmax(axis=1)[:, None], axis=1)
    assert (largest > 0).all()


def test_directions_of_equal_variance_are_all_found(page: Page) -> None:
    vectors = np.concatenate([np.eye(3, 8), -np.eye(3, 8)]).astype(np.float32)
    found = _principal(page, vectors)
    np.testing.assert_allclose(found["variances"], [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(found["axes"] @ found["axes"].T, np.eye(3), atol=1e-9)
    assert np.abs(found["axes"][:, 3:]).max() == 0


@pytest.mark.parametrize("vectors", [np.ones((5, 4)), np.zeros((3, 2)), np.ones((1, 6))], ids=["equal", "zeros", "one"])
def test_vectors_that_do_not_differ_have_no_components(page: Page, vectors: Array) -> None:
    found = _principal(page, vectors)
    assert found["axes"].size == found["scores"].size == 0
    assert found["total"] == 0


def test_vectors_that_differ_in_one_direction_have_one(page: Page) -> None:
    along = np.array([3.0, 4.0, 0.0])
    found = _principal(page, np.outer([-2, 0, 2], along))
    np.testing.assert_allclose(found["axes"], [along / 5], atol=1e-7)
    np.testing.assert_allclose(found["scores"], [[-10, 0, 10]], atol=1e-6)


def test_cosines_are_numpys(page: Page) -> None:
    vectors = _vectors(30, 13)
    vectors[4] = 0  # has no direction: alike to none, itself included
    found = page.evaluate(_COSINES, {"values": vectors.ravel().tolist(), "dim": 13, "index": 7})
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    wanted = vectors.astype(np.float64) @ vectors[7] / np.where(lengths > 0, lengths, 1) / lengths[7]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found[4] == 0


def test_eigenvalues_are_numpys(page: Page) -> None:
    half = np.random.default_rng(2).normal(size=(12, 12))
    matrix = half + half.T
    found = page.evaluate(_EIGEN, matrix.tolist())
    np.testing.assert_allclose(found["values"], np.linalg.eigvalsh(matrix)[::-1], atol=1e-10)
    vectors = np.array(found["vectors"])
    np.testing.assert_allclose(vectors @ matrix, np.array(found["values"])[:, None] * vectors, atol=1e-10)


def test_likeness_of_a_few_vectors_is_numpys(page: Page) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 33))
    vectors[3] = 0
    got = page.evaluate(
        """async (vectors) => {
          const { cosineMatrix, pairs, neighbours } = await import("/static/vectors.js");
          const matrix = cosineMatrix(vectors);
          return { matrix, pairs: pairs(matrix), neighbours: neighbours(matrix[2], 2) };
        }""",
        vectors.tolist(),
    )
    lengths = np.linalg.norm(vectors, axis=1)
    expected = vectors @ vectors.T / np.maximum(np.outer(lengths, lengths), 1e-300)
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(got["matrix"], expected, atol=1e-12)
    values = [pair["value"] for pair in got["pairs"]]
    assert len(values) == 21
    assert values == sorted(values, reverse=True)
    assert all(pair["value"] == got["matrix"][pair["row"]][pair["column"]] for pair in got["pairs"])
    order = [int(index) for index in np.argsort(-expected[2], kind="stable") if index != 2]
    assert [each["index"] for each in got["neighbours"]] == order
