"""The probe during pre-training: figures that follow the features, and a training that does not notice it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from mae.model import MaskedAutoencoder
from mae.weights import load_mae
from training.errors import TrainingError
from training.inrun_probe import PENALTIES, InRunProbe, open_probe
from training.pack import pack
from training.packed import NO_LABEL, PackedDataset
from training.pretrain import PretrainConfig, ProbeFlags, pretrain
from training.probing import extract

CPU = torch.device("cpu")
NAMES = {"probe_ridge_cls", "probe_ridge_mean", "probe_knn_cls", "probe_knn_mean"}


def test_the_figures_are_scikit_learns(packed: PackedDataset, pretrained: Path) -> None:
    """On features that tell the classes apart only partly: those of an untrained network, with few images."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(load_mae(pretrained).config)
    probe = InRunProbe(packed, device=CPU, num_images=60, precision="fp32")
    figures = probe(model)
    assert set(figures) == NAMES
    y, val_y = packed.labels[probe.train_ids], packed.labels[probe.val_ids]
    for name in ("cls", "mean"):
        x, val_x = (extract(model.eval(), (name,), packed, ids, CPU) for ids in (probe.train_ids, probe.val_ids))
        std, mean = torch.std_mean(x.double(), dim=0)
        z, val_z = (x.double() - mean) / std, (val_x.double() - mean) / std
        accuracies = [
            (Ridge(alpha=p * len(z)).fit(z, np.eye(3)[y]).predict(val_z).argmax(axis=1) == val_y).mean()
            for p in PENALTIES
        ]
        assert figures[f"probe_ridge_{name}"] == pytest.approx(max(accuracies))
        knn = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
        assert figures[f"probe_knn_{name}"] == pytest.approx(knn.fit(x, y).score(val_x, val_y))


def test_the_images_are_a_fixed_share_of_each_class(packed: PackedDataset) -> None:
    probe, again = (InRunProbe(packed, device=CPU, num_images=60) for _ in range(2))
    np.testing.assert_array_equal(probe.train_ids, again.train_ids)
    np.testing.assert_array_equal(probe.val_ids, again.val_ids)
    np.testing.assert_array_equal(np.bincount(packed.labels[probe.train_ids]), [16, 16, 16])
    np.testing.assert_array_equal(np.bincount(packed.labels[probe.val_ids]), [4, 4, 4])
    assert not set(probe.train_ids) & set(probe.val_ids)


def relabeled(packed: PackedDataset, labels: Any) -> PackedDataset:
    """The same images, with other labels."""
    other = PackedDataset(packed.folder)
    other.labels = np.asarray(labels, np.int64)
    return other


def test_images_without_a_label_are_left_out(packed: PackedDataset) -> None:
    partly = np.where(np.arange(120) % 2 == 0, packed.labels, NO_LABEL)
    probe = InRunProbe(relabeled(packed, partly), device=CPU)
    assert sorted([*probe.train_ids, *probe.val_ids]) == list(range(0, 120, 2))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_and_the_world_its_random_numbers(
    training: bool, packed: PackedDataset, pretrained: Path
) -> None:
    model = load_mae(pretrained).train(training)
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002 - the global state is the point
    InRunProbe(packed, device=CPU)(model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert {module.training for module in model.modules()} == {training}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_training_does_not_notice_the_probe(packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]) -> None:
    """The same weights, bit for bit, with a probe after every epoch and without."""
    config = PretrainConfig(data=packed.folder, out=tmp_path / "plain", epochs=3, probe_every=0, **tiny)
    plain, watched = pretrain(config), pretrain(replace(config, out=tmp_path / "watched", probe_every=1))
    rows = [json.loads(line) for line in (watched / "metrics.jsonl").read_text().splitlines()]
    assert [set(row) - {"step", "epoch"} for row in rows if "loss" not in row] == [NAMES] * 3
    assert (watched / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_features_that_are_not_finite_have_no_figures(packed: PackedDataset, pretrained: Path) -> None:
    model = load_mae(pretrained)
    with torch.no_grad():
        model.encoder.cls_token.fill_(torch.nan)
    assert InRunProbe(packed, device=CPU)(model) == {}


# What the flags ask for


@pytest.mark.parametrize(
    ("every", "epochs", "due"),
    [
        (None, 50, [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]),
        (None, 3, [1, 2, 3]),
        (4, 10, [4, 8, 10]),
        (0, 10, []),
    ],
)
def test_the_epochs_after_which_to_probe(every: int | None, epochs: int, due: list[int]) -> None:
    asked = ProbeFlags(probe_every=every)
    assert [epoch for epoch in range(1, epochs + 1) if asked.probe_due(epoch, epochs)] == due


def test_labels_of_the_data_turn_the_probe_on(packed: PackedDataset, tmp_path: Path) -> None:
    assert isinstance(open_probe(ProbeFlags(), packed, tmp_path, CPU), InRunProbe)
    assert open_probe(ProbeFlags(probe_every=0), packed, tmp_path, CPU) is None


@pytest.mark.parametrize(
    "labels", [np.full(120, NO_LABEL), np.zeros(120), [0, 1] + [NO_LABEL] * 118], ids=["none", "one class", "one each"]
)
def test_too_few_labels_turn_it_off_and_are_an_error_where_it_is_asked_for(
    labels: Any, packed: PackedDataset, tmp_path: Path
) -> None:
    few = relabeled(packed, labels)
    assert open_probe(ProbeFlags(), few, tmp_path, CPU) is None
    with pytest.raises(TrainingError, match=r"name labeled images by --probe-data|no class has two images"):
        open_probe(ProbeFlags(probe_every=1), few, tmp_path, CPU)


def test_labels_may_come_from_elsewhere(photos: Path, other_photos: Path, tmp_path: Path) -> None:
    """Packed at the size of the images of the training."""
    unlabeled = pack(photos / "red", tmp_path / "red", size=(24, 24))
    probe = open_probe(ProbeFlags(probe_data=other_photos), unlabeled, tmp_path / "pack-probe", CPU)
    assert probe is not None
    assert (len(probe.train_ids), len(probe.val_ids)) == (24, 6)
    assert probe.labeled.info.size == (24, 24)
    with pytest.raises(TrainingError, match="red has no labels of two classes to probe with"):
        open_probe(ProbeFlags(probe_data=photos / "red"), unlabeled, tmp_path / "pack-again", CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe_every": -1}, "--probe-every must not be negative, got -1"),
        ({"probe_images": 9}, "--probe-images must be at least 10, got 9"),
        ({"probe_every": 0, "probe_data": Path("a")}, "--probe-data goes with a probe; leave out --probe-every 0"),
    ],
)
def test_flags_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbeFlags(**changes).check_probe()
