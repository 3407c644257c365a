"""Maps of the features of a few labeled images, beside a run or a comparison that its page shows them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mae.pretrained import Pretrained
from training.data import Ids
from training.packed import NO_LABEL, PackedDataset
from training.pages.record import FEATURES_FILE
from training.probing import extract
from training.run import write_arrays
from training.tsne import sample_points, tsne

_MIN_IMAGES = 8  # fewer make no map


def write_features(
    out: Path, model: Pretrained, packed: PackedDataset, device: torch.device, *, seed: int = 0
) -> Path | None:
    """Write `features.npz`: points f32 [N, 2], labels i64 [N], of up to 2,000 images; None where few have labels."""
    ids = labeled_sample(packed, seed)
    if len(ids) < _MIN_IMAGES:
        return None
    arrays: dict[str, NDArray[Any]] = {
        "points": map_features(model, packed, ids, device, seed),
        "labels": packed.labels[ids],
    }
    return write_arrays(out / FEATURES_FILE, arrays)


def labeled_sample(packed: PackedDataset, seed: int) -> Ids:
    """Up to 2,000 of the images that have a label, seeded: sorted i64 ids."""
    labeled = np.flatnonzero(packed.labels != NO_LABEL)
    return labeled[sample_points(len(labeled), seed)]


def map_features(
    model: Pretrained, packed: PackedDataset, ids: Ids, device: torch.device, seed: int
) -> NDArray[np.float32]:
    """The mean-pooled features of these images by t-SNE: f32 [N, 2]."""
    features: NDArray[np.float32] = extract(model.to(device), ("mean",), packed, ids, device).numpy()
    return tsne(features, seed)
