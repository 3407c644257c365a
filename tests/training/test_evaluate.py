"""Scores of a few answers, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.evaluate import Predictions, write_predictions


def predictions(answers: list[int], labels: list[int], num_classes: int) -> Predictions:
    logits = torch.nn.functional.one_hot(torch.tensor(answers), num_classes).float()
    return Predictions(logits, np.array(labels))


def test_top1_and_macro_f1() -> None:
    """Class 0: precision 2/3, recall 1, F1 0.8; class 1: 1, 1/2, 2/3; class 2: 1, 1, 1. Their mean, not the images'."""
    scores = predictions([0, 0, 0, 1, 2], [0, 0, 1, 1, 2], 3).scores("val")
    assert scores == {"val_top1": 0.8, "val_f1": pytest.approx((0.8 + 2 / 3 + 1) / 3)}


def test_a_class_that_does_not_occur_does_not_count_unless_it_is_answered() -> None:
    assert predictions([0, 1], [0, 1], 4).scores("x")["x_f1"] == 1
    assert predictions([0, 1, 3], [0, 1, 1], 4).scores("x")["x_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_top5_where_there_are_more_than_five_classes() -> None:
    """Of six logits in falling order every label but the last is among five."""
    logits = torch.arange(6, 0, -1.0).expand(6, -1)
    scores = Predictions(logits, np.arange(6)).scores("test")
    assert scores["test_top5"] == pytest.approx(5 / 6)
    assert scores["test_top1"] == pytest.approx(1 / 6)
    assert "val_top5" not in predictions([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], 5).scores("val")


def test_the_loss_is_that_of_the_labels() -> None:
    """Probabilities of a half, and of a quarter for a label that has three times as likely a rival."""
    logits = torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]])
    assert Predictions(logits, np.array([1, 0])).loss() == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_predictions_are_read_back_without_torch(tmp_path: Path) -> None:
    found = predictions([0, 1], [1, 1], 2)
    write_predictions(tmp_path, {"val": found})
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["val_labels", "val_logits"]
        assert arrays["val_logits"].dtype == np.float32
        assert arrays["val_labels"].dtype == np.int64
        assert arrays["val_logits"].tolist() == [[1, 0], [0, 1]]
        assert arrays["val_labels"].tolist() == [1, 1]
