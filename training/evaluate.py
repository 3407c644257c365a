"""Accuracy of a classifier over a packed set, in fp32, on the very pixels that the service would make."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from training.data import Ids, center_batch
from training.packed import PackedDataset
from training.progress import track

BATCH = 256


@torch.inference_mode()
def map_batches(
    packed: PackedDataset,
    ids: Ids,
    size: tuple[int, int],
    device: torch.device,
    f: Callable[[Tensor], Tensor],
    name: str,
) -> Tensor:
    """`f` of every image's centre, u8 [B, C, H, W] -> [B, ...], in the order of `ids`; on the CPU, concatenated."""
    results = []
    with track(name, len(ids)) as bar:
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            results.append(f(center_batch(packed, batch, size, device)).float().cpu())
            bar.advance(len(batch))
    return torch.cat(results)


def top1(logits: Tensor, labels: Ids) -> float:
    """Share of rows whose greatest logit is the label's. logits: [N, classes]; labels: i64 [N]."""
    return float((logits.argmax(dim=1).numpy() == np.asarray(labels)).mean())
