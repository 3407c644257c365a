"""What a classifier makes of a packed set, in fp32, on the very pixels that the service would make, and its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor

from training.data import Ids, center_batch
from training.packed import PackedDataset
from training.progress import track
from training.run import PREDICTIONS_FILE, write_arrays

BATCH = 256


@torch.inference_mode()
def map_batches(
    packed: PackedDataset,
    ids: Ids,
    size: tuple[int, int],
    device: torch.device,
    f: Callable[[Tensor], Tensor],
    name: str | None,
) -> Tensor:
    """`f` of every image's centre, u8 [B, C, H, W] -> [B, ...], in the order of `ids`; f32, on the CPU, concatenated.

    name: of the bar; None for no bar, where another one is on the screen.
    """
    results = []
    with nullcontext() if name is None else track(name, len(ids)) as bar:
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            results.append(f(center_batch(packed, batch, size, device)).float().cpu())
            if bar is not None:
                bar.advance(len(batch))
    return torch.cat(results)


def top1(logits: Tensor, labels: Ids) -> float:
    """Share of rows whose greatest logit is the label's. logits: [N, classes]; labels: i64 [N]."""
    return float((logits.argmax(dim=1).numpy() == np.asarray(labels)).mean())


class Predictions(NamedTuple):
    """logits: f32 [N, classes]; labels: i64 [N]."""

    logits: Tensor
    labels: Ids

    def loss(self) -> float:
        """The mean cross-entropy, without smoothing."""
        return float(F.cross_entropy(self.logits, torch.from_numpy(self.labels)))

    def scores(self, name: str) -> dict[str, float]:
        """In 0..1: `{name}_top1`, `{name}_top5` where there are more than five classes, and `{name}_f1`.

        The last is the mean of the classes' F1, over those that occur in the labels or among the answers.
        """
        scores = {f"{name}_top1": top1(self.logits, self.labels)}
        if self.logits.shape[1] > 5:
            best = self.logits.topk(5, dim=1).indices.numpy()  # [N, 5]
            scores[f"{name}_top5"] = float((best == self.labels[:, None]).any(axis=1).mean())
        answers = self.logits.argmax(dim=1).numpy()
        scores[f"{name}_f1"] = float(f1_score(self.labels, answers, average="macro", zero_division=0.0))
        return scores


def write_predictions(folder: Path, predictions: Mapping[str, Predictions]) -> None:
    """`predictions.npz`: `{name}_logits` f32 [N, classes] and `{name}_labels` i64 [N] for each name."""
    arrays = {f"{name}_{field}": np.asarray(v) for name, p in predictions.items() for field, v in p._asdict().items()}
    write_arrays(folder / PREDICTIONS_FILE, arrays)
