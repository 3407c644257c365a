"""Nearest neighbours: those of scikit-learn, and votes that are counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor

from training.knn import knn_top1, nearest, vote


def clouds(num: int, seed: int, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Four overlapping ones, their points of many lengths: (x [N, D], y [N])."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(4, dim, generator=torch.Generator().manual_seed(0))
    y = torch.randint(4, (num,), generator=generator)
    x = centers[y] + 0.7 * torch.randn(num, dim, generator=generator)
    return x * torch.rand(num, 1, generator=generator).add(0.1), y


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks on both sides, the last ones not full, and smaller than the number of neighbours."""
    monkeypatch.setattr("training.knn._QUERIES", 16)
    monkeypatch.setattr("training.knn._BANK", 7)


@pytest.mark.usefixtures("small_blocks")
def test_the_nearest_are_scikit_learns() -> None:
    (queries, _), (bank, _) = clouds(50, 1), clouds(150, 2)
    distance, expected = NearestNeighbors(n_neighbors=20, metric="cosine").fit(bank).kneighbors(queries)
    similarity, ids = nearest(queries, bank, 20)
    torch.testing.assert_close(ids, torch.from_numpy(expected))
    torch.testing.assert_close(similarity.double(), 1 - torch.from_numpy(distance).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_the_accuracy_is_scikit_learns(k: int) -> None:
    """Its weights are a function of the distance, which is 1 - similarity."""
    (queries, labels), (bank, bank_labels) = clouds(200, 1), clouds(300, 2)
    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda d: torch.tensor((1 - d) / 0.07).exp().numpy())
    theirs.fit(bank.double(), bank_labels)
    accuracies = knn_top1(queries, labels, bank, bank_labels, 4, (1, 2, 9, 50))
    assert accuracies[k] == pytest.approx(theirs.score(queries.double(), labels), abs=1e-9)
    assert 0.4 < accuracies[k] < 0.95


def test_many_far_neighbours_weigh_less_than_a_near_one() -> None:
    """e^(0.9/0.07) = 383,000 against four times e^(0.7/0.07) = 88,000."""
    similarity = torch.tensor([[0.9, 0.7, 0.7, 0.7, 0.7]])
    labels = torch.tensor([[2, 0, 0, 0, 0]])
    votes = vote(similarity, labels, 3)
    expected = torch.tensor([[4 * math.exp(0.7 / 0.07), 0.0, math.exp(0.9 / 0.07)]])
    torch.testing.assert_close(votes, expected, rtol=1e-4, atol=0)
    assert votes.argmax() == 2


def test_similar_neighbours_are_a_majority() -> None:
    votes = vote(torch.tensor([[0.90, 0.89, 0.88]]), torch.tensor([[2, 0, 0]]), 3)
    assert votes.argmax() == 0


@pytest.mark.usefixtures("small_blocks")
def test_every_k_sees_its_own_neighbours() -> None:
    """The nearest is of the wrong class, and the next four of the right one; each query in a block of its own."""
    angles = torch.tensor([0.1, 0.2, 0.2, 0.2, 0.2])
    bank = torch.stack([angles.cos(), angles.sin()], dim=1)
    queries = torch.tensor([[1.0, 0.0]]).repeat(40, 1)
    labels, bank_labels = torch.ones(40, dtype=torch.long), torch.tensor([0, 1, 1, 1, 1])
    assert knn_top1(queries, labels, bank, bank_labels, 2, (1, 5)) == {1: 0.0, 5: 1.0}


@pytest.mark.parametrize("num", [0, 6])
def test_more_neighbours_than_there_are_is_an_error(num: int) -> None:
    with pytest.raises(ValueError, match=rf"must lie in 1\.\.5, the size of the bank, got {num}"):
        nearest(torch.ones(2, 3), torch.ones(5, 3), num)
