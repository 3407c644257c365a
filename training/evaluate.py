"""Accuracy of a classifier over a packed set, in fp32, on the very pixels that the service would make."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data import Ids, center_batch
from training.packed import PackedDataset
from training.progress import track
from training.run import write_atomic

BATCH = 256
PREDICTIONS_FILE = "predictions.npz"


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


def save_predictions(folder: Path, **splits: tuple[Tensor, Ids]) -> None:
    """Write `predictions.npz`: for each split, as in `val=...`, val_logits f32 [N, classes] and val_labels i64 [N]."""
    arrays = {}
    for split, (logits, labels) in splits.items():
        arrays[f"{split}_logits"] = logits.float().numpy()
        arrays[f"{split}_labels"] = np.asarray(labels, np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomic(folder / PREDICTIONS_FILE, buffer.getvalue())
