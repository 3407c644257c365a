"""What training.probe does: features of every image, and what can be told from them.

Two answers, each with every choice made on a validation split: k nearest neighbours, and logistic regression, whose
result is one linear layer that can be exported beside the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from bundle.cli.words import counted
from bundle.digest import file_sha256
from mae.classifier import LinearHead, LinearHeadConfig
from mae.config import Feature
from mae.model import Normalize, patchify
from mae.pretrained import Pretrained
from mae.weights import WEIGHTS_FILE, load_pretrained, save_model
from training.converting import resolve_init
from training.data import Ids, open_data, open_test, require_classes, split_labeled
from training.device import pick_device
from training.errors import TrainingError
from training.evaluate import Predictions, map_batches, top1, write_predictions
from training.knn import knn_top1
from training.linear import Layer, logistic_path
from training.packed import PackedDataset
from training.report import write_report
from training.run import Run, data_fields, read_run, write_labels

if TYPE_CHECKING:
    from training.probe import Names, ProbeConfig


class Trial(NamedTuple):
    """One thing that was tried. setting: k, or the penalty; val_loss: cross-entropy, settles ties of linear layers."""

    classifier: Literal["knn", "linear"]
    features: Names
    setting: float
    val_top1: float
    val_loss: float = 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """The best is the greatest."""
        return self.val_top1, -self.val_loss


class _Part(NamedTuple):
    """Images of one split: their features by name, f32 [N, D] each, and labels i64 [N], all on the device."""

    features: Mapping[Feature, Tensor]
    labels: Tensor

    def x(self, names: Names) -> Tensor:
        """f32 [N, D * len(names)]."""
        return torch.cat([self.features[name] for name in names], dim=1)

    def joined(self, other: _Part) -> _Part:
        features = {name: torch.cat([own, other.features[name]]) for name, own in self.features.items()}
        return _Part(features, torch.cat([self.labels, other.labels]))


def probe(config: ProbeConfig) -> dict[str, float]:
    """As training.probe.probe."""
    run = Run(config.out, "probe", asdict(config), resume=False)
    config = replace(config, init=resolve_init(config.init, config.out / "init"))
    pretrained = read_run(config.init, "pretrain")
    model = load_pretrained(config.init)
    device = pick_device(config.device)
    model.to(device)
    size = tuple(pretrained["data"]["pack_size"])
    packed = open_data(config.data, config.out / "pack", size=size, channels=model.config.channels)
    classes = require_classes(packed)
    test = None if config.test is None else open_test(config.test, config.out, packed, classes)
    splits = split_labeled(packed, config.label_fraction, config.val_fraction, config.seed)
    ks = _possible(config.neighbors, len(splits[0]))
    heads = {
        names: LinearHead(LinearHeadConfig(inputs=names, dim=model.config.dim, num_classes=len(classes)))
        for names in config.candidates
    }

    train, val = (_part(model, config.candidates, packed, ids, device) for ids in splits)
    sweep = _Sweep(config, train, val, ks, len(classes))
    metrics = sweep.metrics()
    layer, names = sweep.final_layer(), sweep.linear.features
    predictions = {"val": Predictions(sweep.val_logits().cpu(), packed.labels[splits[1]])}
    if test is not None:
        unseen = _part(model, config.candidates, test, np.arange(len(test)), device)
        predictions["test"] = Predictions(layer(unseen.x(names)).cpu(), test.labels)
        metrics |= {"probe_test_top1": top1(*predictions["test"]), "knn_test_top1": sweep.knn_top1(unseen)}
    head = heads[names]
    head.load_state_dict({"linear.weight": layer.weight, "linear.bias": layer.bias})
    save_model(head, config.out)
    write_predictions(config.out, predictions)
    write_labels(config.out, classes)
    run.describe(
        data=data_fields(packed.info), num_train=len(train.labels), num_val=len(val.labels), metrics=metrics,
        **({} if test is None else {"num_test": len(test)}),
        knn_features=sweep.knn.features, probe_features=names, trials=[trial._asdict() for trial in sweep.trials],
        init_sha256=file_sha256(config.init / WEIGHTS_FILE),  # a head fits these very weights, and export asks for them
    )  # fmt: skip
    if config.report:
        write_report(config.out)
    return metrics


class _Sweep:
    """Everything that is chosen on the validation split, and what follows from it."""

    def __init__(self, config: ProbeConfig, train: _Part, val: _Part, ks: tuple[int, ...], num_classes: int) -> None:
        self.config, self.val, self.num_classes = config, val, num_classes
        knn = [
            Trial("knn", names, k, accuracy)
            for names in config.candidates
            for k, accuracy in knn_top1(val.x(names), val.labels, train.x(names), train.labels, num_classes, ks).items()
        ]
        self._layers = {
            (names, penalty): layer
            for names in config.candidates
            for penalty, layer in self._path(train, names, config.penalties).items()
        }
        linear = [self._try_layer(names, penalty) for names, penalty in self._layers]
        self.trials = knn + linear
        self.knn = max(knn, key=lambda trial: trial.rank)
        self.linear = max(linear, key=lambda trial: trial.rank)
        self.final = train.joined(val) if config.refit else train

    def metrics(self) -> dict[str, float]:
        return {
            "probe_val_top1": self.linear.val_top1, "probe_penalty": self.linear.setting,
            "knn_val_top1": self.knn.val_top1, "knn_k": self.knn.setting,
        }  # fmt: skip

    def val_logits(self) -> Tensor:
        """Of the layer that the validation figures are of, which has not seen these images: f32 [N, classes]."""
        return self._layers[self.linear.features, self.linear.setting](self.val.x(self.linear.features))

    def final_layer(self) -> Layer:
        """On the validation images too, if so configured, by the path of penalties that led to the choice."""
        if not self.config.refit:
            return self._layers[self.linear.features, self.linear.setting]
        penalties = tuple(p for p in self.config.penalties if p >= self.linear.setting)
        return self._path(self.final, self.linear.features, penalties)[self.linear.setting]

    def knn_top1(self, part: _Part) -> float:
        names, k = self.knn.features, int(self.knn.setting)
        bank = self.final
        return knn_top1(part.x(names), part.labels, bank.x(names), bank.labels, self.num_classes, (k,))[k]

    def _path(self, part: _Part, names: Names, penalties: tuple[float, ...]) -> dict[float, Layer]:
        return logistic_path(part.x(names), part.labels, self.num_classes, penalties, self.config.max_iterations)

    def _try_layer(self, names: Names, penalty: float) -> Trial:
        logits, labels = self._layers[names, penalty](self.val.x(names)), self.val.labels
        accuracy = float((logits.argmax(dim=1) == labels).float().mean())
        return Trial("linear", names, penalty, accuracy, float(F.cross_entropy(logits, labels)))


def extract(
    model: Pretrained,
    names: Names,
    packed: PackedDataset,
    ids: Ids,
    device: torch.device,
    *,
    title: str | None = "features",
) -> Tensor:
    """The named features of every image, concatenated: f32 [N, D * len(names)], on the CPU.

    title: of the progress bar, None for no bar. The model must be in evaluation mode and on the device.
    """
    normalize = Normalize(model.config.mean, model.config.std).to(device)

    def features(pixels: Tensor) -> Tensor:
        tokens = model.encoder(patchify(normalize(pixels), model.config.patch_size))  # [B, 1 + L, D]
        parts = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(dim=1)}
        return torch.cat([parts[name] for name in names], dim=1)

    return map_batches(packed, ids, model.config.image_size, device, features, title)


def trials_table(document: Mapping[str, Any]) -> Table:
    """A probe's run.json as a table: each classifier on each feature at its best setting; the chosen ones starred. The
    columns of accuracies say of how many images they are.
    """
    parts = ("validation", document.get("num_val")), ("test", document.get("num_test"))
    headings = (part if number is None else f"{part}, {counted(number, 'image')}" for part, number in parts)
    table = Table("classifier", "features", "setting", *headings)
    trials = [Trial(**fields) for fields in document["trials"]]
    for (classifier, features), group in groupby(trials, key=lambda trial: (trial.classifier, trial.features)):
        best = max(group, key=lambda trial: trial.rank)
        prefix, setting = ("knn", "k {:g}") if classifier == "knn" else ("probe", "penalty {:g}")
        chosen = features == document[f"{prefix}_features"]
        test = document["metrics"].get(f"{prefix}_test_top1") if chosen else None
        table.add_row(
            classifier + " *" * chosen, " ".join(features), setting.format(best.setting), f"{best.val_top1:.2%}",
            "" if test is None else f"{test:.2%}",
        )  # fmt: skip
    return table


def _possible(ks: tuple[int, ...], num_images: int) -> tuple[int, ...]:
    """Those neighbours that there are. Raises TrainingError where none is left."""
    possible = tuple(k for k in ks if k <= num_images)
    if not possible:
        raise TrainingError(f"--neighbors {min(ks)} asks for more than the {num_images} images to learn from; lower it")
    return possible


def _part(
    model: Pretrained, candidates: tuple[Names, ...], packed: PackedDataset, ids: Ids, device: torch.device
) -> _Part:
    """Each image goes through the encoder once, whatever the candidates are."""
    names = tuple(dict.fromkeys(name for candidate in candidates for name in candidate))
    x = extract(model, names, packed, ids, device).to(device)
    labels = torch.from_numpy(packed.labels[ids]).to(device)
    return _Part(dict(zip(names, x.chunk(len(names), dim=1), strict=True)), labels)
