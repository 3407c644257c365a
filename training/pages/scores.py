"""What a classifier gets right, class by class. Letters: N images, K classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

SPLITS = ("test", "val")  # the first that is there is shown
SPLIT_NAMES = {"test": "test set", "val": "validation split"}


@dataclass(frozen=True)
class Scores:
    """confusion: i64 [K, K], rows are true classes; f1: f64 [K], NaN for a class neither there nor predicted."""

    split: str
    confusion: NDArray[np.int64]
    f1: NDArray[np.float64]

    @property
    def macro_f1(self) -> float:
        return float(np.nanmean(self.f1))

    @property
    def top1(self) -> float:
        return float(np.trace(self.confusion) / self.confusion.sum())

    def rates(self) -> NDArray[np.float64]:
        """The confusion as shares of each true class: f64 [K, K], zero rows for a class that is not there."""
        totals = self.confusion.sum(axis=1, keepdims=True)
        rates: NDArray[np.float64] = self.confusion / np.maximum(totals, 1)
        return rates


def score(arrays: Mapping[str, NDArray[Any]], num_classes: int) -> Scores | None:
    """Of predictions.npz: logits f32 [N, K] and labels i64 [N] of the test set if it is there, else of validation.

    Raises TrainingError where the arrays do not fit each other or the number of classes.
    """
    for split in SPLITS:
        if f"{split}_logits" not in arrays or f"{split}_labels" not in arrays:
            continue
        logits, labels = arrays[f"{split}_logits"], arrays[f"{split}_labels"]
        if len(labels) == 0:
            continue
        if logits.shape != (len(labels), num_classes) or not ((labels >= 0) & (labels < num_classes)).all():
            raise TrainingError(
                f"the {split} predictions are {logits.shape} for {len(labels)} labels, {num_classes} classes"
            )
        return _scores(split, labels, logits.argmax(axis=1), num_classes)
    return None


def _scores(split: str, labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> Scores:
    confusion = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )
    hits = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = np.divide(2 * hits, either, out=np.full(num_classes, np.nan), where=either > 0)
    return Scores(split, confusion, f1)
