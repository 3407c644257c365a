"""How the features do while pre-training goes on: quick classifiers every few epochs on a few thousand labeled images.

Ridge regression in closed form and a kNN vote, both on cls and on mean features. They cost seconds, draw nothing from
the random numbers of the training, and see the same images at every call, so that the figures make a curve.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mae.config import Feature
from mae.model import MaskedAutoencoder
from training.compute import PrecisionName
from training.data import Ids, labeled_subset, open_data, split_validation
from training.device import autocast
from training.errors import TrainingError
from training.knn import knn_top1
from training.linear import ridge_path
from training.packed import NO_LABEL, PackedDataset
from training.probing import extract
from training.stream import StreamingDataset

if TYPE_CHECKING:
    from training.pretrain import ProbeFlags

NEIGHBORS = 20
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FEATURES: tuple[Feature, ...] = ("cls", "mean")
_VAL_FRACTION = 0.2
_NUM_IMAGES = {"cuda": 5000, "cpu": 2000}  # one pass through the encoder, which on a CPU takes all of the time
_SEED = 0  # not the run's, so that runs on the same images are asked the same


def open_probe(
    flags: ProbeFlags,
    images: PackedDataset | StreamingDataset,
    cache: Path,
    device: torch.device,
    precision: PrecisionName = "auto",
) -> InRunProbe | None:
    """The probe that the flags ask for; None where there is to be none, or none was asked for and labels are too few.

    images: those of the training, whose labels only a packed set tells; cache: where --probe-data is packed, at the
    same size. Raises TrainingError where labels were asked for and are not there.
    """
    if flags.probe_every == 0:
        return None
    if flags.probe_data is not None:
        labeled = open_data(flags.probe_data, cache, size=images.info.size, channels=images.info.channels)
    elif isinstance(images, PackedDataset):
        labeled = images
    elif flags.probe_every is None:
        return None
    else:
        raise TrainingError("a stream's labels are not read; name labeled images by --probe-data")
    try:
        return InRunProbe(labeled, device=device, num_images=flags.probe_images, precision=precision)
    except TrainingError:
        if flags.probe_data is not None or flags.probe_every is not None:
            raise
        return None


class InRunProbe:
    """`probe(model)` says how well the model's features tell the classes of `labeled` apart.

    Images without a label are left out. Of the others a fixed random share of each class is used, `num_images` or a few
    more, as every class gives at least one, and a fifth of them is held out. Raises TrainingError unless two classes
    have labels and one of them has two images.
    """

    def __init__(
        self,
        labeled: PackedDataset,
        *,
        device: torch.device,
        num_images: int | None = None,
        precision: PrecisionName = "auto",
    ) -> None:
        self.labeled, self.device, self.precision = labeled, device, precision
        self.train_ids, self.val_ids = _choose(labeled, num_images or _NUM_IMAGES[device.type])
        self.num_classes = len(labeled.info.classes or ())

    def __call__(self, model: MaskedAutoencoder) -> dict[str, float]:
        """Shares of the held-out images that are classified right: probe_{ridge,knn}_{cls,mean}.

        Ridge's penalty is the best of five on those very images: good for a curve; training.probe makes figures to
        report. Empty where a feature is not finite, which the training's own check will tell of. The model, on the
        device, is left in the mode that it was in.
        """
        was_training = model.training
        model.eval()
        try:
            with autocast(self.device, self.precision):
                (x, y), (val_x, val_y) = (self._part(model, ids) for ids in (self.train_ids, self.val_ids))
        finally:
            model.train(was_training)
        if not bool(x.isfinite().all() & val_x.isfinite().all()):
            return {}
        figures = {}
        for name, own, theirs in zip(_FEATURES, x.chunk(2, dim=1), val_x.chunk(2, dim=1), strict=True):
            layers = ridge_path(own, y, self.num_classes, PENALTIES).values()
            hits = torch.stack([(layer(theirs).argmax(dim=1) == val_y).float().mean() for layer in layers])
            figures[f"probe_ridge_{name}"] = float(hits.max())
            k = min(NEIGHBORS, len(y))
            figures[f"probe_knn_{name}"] = knn_top1(theirs, val_y, own, y, self.num_classes, (k,))[k]
        return figures

    def _part(self, model: MaskedAutoencoder, ids: Ids) -> tuple[Tensor, Tensor]:
        """(features f32 [N, 2 * D], labels i64 [N]) on the device."""
        x = extract(model, _FEATURES, self.labeled, ids, self.device, title=None)
        return x.to(self.device), torch.from_numpy(self.labeled.labels[ids]).to(self.device)


def _choose(labeled: PackedDataset, num_images: int) -> tuple[Ids, Ids]:
    """(training, validation): sorted ids of a fixed random subset, with the shares of the classes kept."""
    source = labeled.info.source
    with_label = np.flatnonzero(labeled.labels != NO_LABEL)
    labels = labeled.labels[with_label]
    if labeled.info.classes is None or len(np.unique(labels)) < 2:
        raise TrainingError(f"{source} has no labels of two classes to probe with; name labeled images by --probe-data")
    rng = np.random.default_rng(_SEED)
    subset = labeled_subset(labels, min(1.0, num_images / len(labels)), rng)
    train, val = split_validation(labels, subset, _VAL_FRACTION, rng)
    return with_label[train], with_label[val]
