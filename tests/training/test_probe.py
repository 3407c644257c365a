"""The linear probe: logistic regression at its optimum, on features that stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.classifier import LinearHead
from mae.model import Normalize, patchify
from mae.weights import load_mae, load_model
from training.data import center_batch
from training.errors import TrainingError
from training.evaluate import top1
from training.packed import PackedDataset
from training.probe import ProbeConfig, extract, fit_logistic, probe

CPU = torch.device("cpu")


def clusters(num: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
    """Overlapping ones, each feature on a scale and at an offset of its own: (x [N, F], y [N])."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(num) % classes
    centers = torch.randn(classes, features, generator=generator)
    x = centers[y] + torch.randn(num, features, generator=generator)
    return x * torch.logspace(-2, 2, features) + torch.linspace(-50, 50, features), y


@pytest.mark.parametrize("penalty", [1e-4, 1e-1])
def test_the_fit_is_where_the_gradient_vanishes(penalty: float) -> None:
    """In the standardised features, where the penalty applies; in float64, so that only the fit's error shows."""
    x, y = clusters(300, 6, 3)
    weight, bias = fit_logistic(x, y, 3, penalty, 200)
    std, mean = torch.std_mean(x.double(), dim=0)
    scaled = (weight.double() * std).requires_grad_()
    shifted = (bias.double() + weight.double() @ mean).requires_grad_()
    loss = F.cross_entropy(F.linear((x.double() - mean) / std, scaled, shifted), y) + penalty * scaled.square().sum()
    gradients = torch.autograd.grad(loss, [scaled, shifted])
    assert all(gradient.abs().max() < 1e-3 for gradient in gradients)
    assert scaled.abs().max() > 0.1  # not the start, which is zero


def test_features_that_say_nothing_leave_the_frequencies() -> None:
    """With a constant feature the optimum is known: the bias is the logarithm of the classes' shares."""
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    weight, bias = fit_logistic(torch.full((100, 2), 7.0), y, 3, 1e-3, 100)
    probabilities = (torch.full((1, 2), 7.0) @ weight.T + bias).softmax(dim=1)[0]
    torch.testing.assert_close(probabilities, torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=1e-3)


def test_a_larger_penalty_means_smaller_weights() -> None:
    x, y = clusters(200, 4, 2)
    norms = [float((fit_logistic(x, y, 2, penalty, 200)[0] * x.std(dim=0)).norm()) for penalty in (1e-4, 1e-2, 1.0)]
    assert norms == sorted(norms, reverse=True)


@pytest.mark.parametrize("names", [("cls",), ("mean", "cls")])
def test_features_are_the_frozen_encoders(names: Any, packed: PackedDataset, pretrained: Path) -> None:
    model = load_mae(pretrained)
    ids = np.array([7, 70, 3])
    pixels = center_batch(packed, ids, model.config.image_size, CPU)
    with torch.inference_mode():
        tokens = model.encoder(patchify(Normalize(model.config.mean, model.config.std)(pixels), 8))
    parts = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(dim=1)}
    expected = torch.cat([parts[name] for name in names], dim=1)
    torch.testing.assert_close(extract(model, names, packed, ids, CPU), expected)


def test_features_of_several_batches_keep_their_order(
    packed: PackedDataset, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = load_mae(pretrained), np.arange(50)[::-1].copy()
    whole = extract(model, ("mean",), packed, ids, CPU)
    monkeypatch.setattr("training.evaluate.BATCH", 16)
    torch.testing.assert_close(extract(model, ("mean",), packed, ids, CPU), whole)


def test_a_probe_end_to_end(packed: PackedDataset, pretrained: Path, other_photos: Path, tmp_path: Path) -> None:
    """What run.json claims of the test set is what the weights on disk do."""
    out = tmp_path / "run"
    metrics = probe(ProbeConfig(data=packed.folder, init=pretrained, out=out, test=other_photos, val_fraction=0.2))
    assert metrics["probe_val_top1"] > 0.9
    assert metrics["probe_test_top1"] > 0.9  # chance is a third
    assert metrics["probe_penalty"] in ProbeConfig(data=out, init=out, out=out).penalties
    document = json.loads((out / "run.json").read_text())
    assert document["kind"] == "probe"
    assert document["metrics"] == metrics
    assert (document["num_train"], document["num_val"]) == (96, 24)
    assert json.loads((out / "labels.json").read_text()) == ["blue", "green", "red"]
    head = load_model(out)
    assert isinstance(head, LinearHead)
    assert head.config.inputs == ("cls", "mean")
    test = PackedDataset(out / "pack-test")
    features = extract(load_mae(pretrained), head.config.inputs, test, np.arange(len(test)), CPU)
    with torch.inference_mode():
        logits = head(features[:, : head.config.dim], features[:, head.config.dim :])
    assert top1(logits, test.labels) == metrics["probe_test_top1"]


def test_the_penalty_is_chosen_on_validation(photos: Path, pretrained: Path, tmp_path: Path) -> None:
    """One so large that only the classes' shares are learned loses to a small one."""
    for label, count in (("red", 30), ("green", 6), ("blue", 6)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for file in sorted((photos / label).iterdir())[:count]:
            (tmp_path / "photos" / label / file.name).write_bytes(file.read_bytes())
    config = ProbeConfig(data=tmp_path / "photos", init=pretrained, out=tmp_path / "run", penalties=(1e4, 1e-4))
    metrics = probe(config)
    assert metrics["probe_penalty"] == 1e-4
    assert metrics["probe_val_top1"] > 0.6  # the share of red


def test_labels_may_be_few(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    probe(ProbeConfig(data=packed.folder, init=pretrained, out=tmp_path / "run", label_fraction=0.1))
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (document["num_train"], document["num_val"]) == (9, 3)


def test_a_probe_is_not_written_over(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    config = ProbeConfig(data=packed.folder, init=pretrained, out=tmp_path / "run")
    probe(config)
    with pytest.raises(TrainingError, match="holds a run already"):
        probe(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"penalties": ()}, "--penalties must be at least one value, none negative"),
        ({"penalties": (1e-3, -1.0)}, "--penalties must be at least one value, none negative"),
        ({"max_iterations": 0}, "--max-iterations must be at least 1, got 0"),
        ({"seed": -1}, "--seed must not be negative, got -1"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbeConfig(data=Path("a"), init=Path("b"), out=Path("c"), **fields)


def test_accuracy_is_the_share_of_greatest_logits() -> None:
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert top1(logits, np.array([1, 0, 0, 1])) == 0.5
