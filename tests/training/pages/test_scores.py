"""Confusion and F1, against a hand example and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from training.errors import TrainingError
from training.pages.scores import score


def one_hot(predicted: list[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes, dtype=np.float32)[predicted]


def test_by_hand() -> None:
    """Class 0: 2 hits, 1 missed, 0 false; class 1: 1 hit, 0 missed, 1 false; class 2 is neither there nor predicted."""
    arrays = {"val_logits": one_hot([0, 0, 1, 1], 3), "val_labels": np.array([0, 0, 0, 1])}
    scores = score(arrays, 3)
    assert scores is not None
    assert scores.split == "val"
    assert scores.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert scores.f1[:2].tolist() == pytest.approx([4 / 5, 2 / 3])
    assert np.isnan(scores.f1[2])
    assert scores.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores.top1 == 0.75
    assert scores.rates().tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3), 0], [0, 1, 0], [0, 0, 0]]


def test_like_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 7, 200), rng.normal(size=(200, 7)).astype(np.float32)
    scores = score({"test_logits": logits, "test_labels": labels}, 7)
    assert scores is not None
    assert (scores.confusion == confusion_matrix(labels, logits.argmax(axis=1))).all()
    assert scores.f1 == pytest.approx(f1_score(labels, logits.argmax(axis=1), average=None))


def test_the_test_set_comes_first() -> None:
    arrays = {
        "val_logits": one_hot([0], 2), "val_labels": np.array([1]),
        "test_logits": one_hot([1], 2), "test_labels": np.array([1]),
    }  # fmt: skip
    scores = score(arrays, 2)
    assert scores is not None
    assert (scores.split, scores.top1) == ("test", 1.0)


def test_nothing_predicted_is_no_score() -> None:
    assert score({"test_logits": one_hot([0], 2)}, 2) is None


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0], [0]])
def test_what_does_not_fit_is_refused(labels: list[int]) -> None:
    with pytest.raises(TrainingError, match="predictions are"):
        score({"test_logits": one_hot([0, 1], 2), "test_labels": np.array(labels)}, 2)
