"""Probes: everything is chosen on the validation split, and what run.json claims is what the weights on disk do."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from mae.classifier import LinearHead
from mae.model import Encoder, Normalize, patchify
from mae.weights import load_mae, load_model
from training.data import center_batch, split_labeled
from training.errors import TrainingError
from training.evaluate import top1
from training.knn import knn_top1
from training.packed import PackedDataset
from training.probe import ProbeConfig, probe
from training.probing import extract, trials_table

CPU = torch.device("cpu")


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


@pytest.fixture(scope="module")
def probed(
    packed: PackedDataset, pretrained: Path, other_photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> ProbeConfig:
    """A finished run, with everything left to the sweep."""
    out = tmp_path_factory.mktemp("runs") / "probed"
    config = ProbeConfig(data=packed.folder, init=pretrained, out=out, test=other_photos, val_fraction=0.2)
    probe(config)
    return config


def document_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())  # type: ignore[no-any-return]


def test_a_probe_end_to_end(probed: ProbeConfig) -> None:
    document = document_of(probed.out)
    metrics = document["metrics"]
    assert document["kind"] == "probe"
    assert (document["num_train"], document["num_val"]) == (96, 24)
    assert min(metrics[f"{kind}_{split}_top1"] for kind in ("knn", "probe") for split in ("val", "test")) > 0.9
    assert metrics["probe_penalty"] in probed.penalties
    assert metrics["knn_k"] in (1, 5, 10, 20, 50)  # 200 are more than there are
    assert json.loads((probed.out / "labels.json").read_text()) == ["blue", "green", "red"]


def test_every_candidate_is_tried_and_the_best_is_taken(probed: ProbeConfig) -> None:
    document = document_of(probed.out)
    for classifier, prefix, settings in (("knn", "knn", 5), ("linear", "probe", 4)):
        trials = [trial for trial in document["trials"] if trial["classifier"] == classifier]
        assert {tuple(trial["features"]) for trial in trials} == {("cls",), ("mean",), ("cls", "mean")}
        assert len(trials) == 3 * settings
        assert document["metrics"][f"{prefix}_val_top1"] == max(trial["val_top1"] for trial in trials)


def test_the_head_on_disk_does_what_run_json_claims(probed: ProbeConfig) -> None:
    document, head = document_of(probed.out), load_model(probed.out)
    assert isinstance(head, LinearHead)
    assert list(head.config.inputs) == document["probe_features"]
    test = PackedDataset(probed.out / "pack-test")
    features = extract(load_mae(probed.init), head.config.inputs, test, np.arange(len(test)), CPU)
    with torch.inference_mode():
        logits = head(*features.chunk(len(head.config.inputs), dim=1))
    assert top1(logits, test.labels) == document["metrics"]["probe_test_top1"]
    predictions = np.load(probed.out / "predictions.npz")
    np.testing.assert_allclose(predictions["test_logits"], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(predictions["test_labels"], test.labels)
    assert predictions["test_logits"].dtype == np.float32
    assert predictions["test_labels"].dtype == np.int64
    assert predictions["val_logits"].shape == (24, 3)
    assert (
        top1(torch.from_numpy(predictions["val_logits"]), predictions["val_labels"])
        == (document["metrics"]["probe_val_top1"])
    )


def test_the_test_sees_the_chosen_neighbours_among_all_labeled_images(
    probed: ProbeConfig, packed: PackedDataset
) -> None:
    document, model = document_of(probed.out), load_mae(probed.init)
    names, k = tuple(document["knn_features"]), document["metrics"]["knn_k"]
    test = PackedDataset(probed.out / "pack-test")
    bank = extract(model, names, packed, np.arange(len(packed)), CPU)
    queries = extract(model, names, test, np.arange(len(test)), CPU)
    accuracy = knn_top1(queries, torch.from_numpy(test.labels), bank, torch.from_numpy(packed.labels), 3, (k,))
    assert document["metrics"]["knn_test_top1"] == accuracy[k]


def test_the_refit_uses_the_validation_images_too(probed: ProbeConfig, tmp_path: Path) -> None:
    """Without it the layer is the one that validation saw: its logits are those in predictions.npz."""
    plain = replace(probed, out=tmp_path / "run", refit=False)
    assert probe(plain)["probe_val_top1"] == document_of(probed.out)["metrics"]["probe_val_top1"]
    layers = [load_model(run.out).state_dict()["linear.weight"] for run in (plain, probed)]
    assert not torch.allclose(layers[0], layers[1], rtol=1e-2)
    head, packed = load_model(plain.out), PackedDataset(Path(probed.data))
    assert isinstance(head, LinearHead)
    _, val_ids = split_labeled(packed, 1.0, 0.2, 0)
    features = extract(load_mae(probed.init), head.config.inputs, packed, val_ids, CPU)
    with torch.inference_mode():
        logits = head(*features.chunk(len(head.config.inputs), dim=1))
    np.testing.assert_allclose(np.load(plain.out / "predictions.npz")["val_logits"], logits, rtol=1e-4, atol=1e-4)


def test_features_that_are_named_are_fixed(probed: ProbeConfig, tmp_path: Path) -> None:
    probe(replace(probed, out=tmp_path / "run", test=None, features=("mean", "cls"), neighbors=(3,), penalties=(1e-2,)))
    document = document_of(tmp_path / "run")
    assert [trial["features"] for trial in document["trials"]] == [["mean", "cls"]] * 2
    assert (document["metrics"]["knn_k"], document["metrics"]["probe_penalty"]) == (3, 1e-2)
    assert "probe_test_top1" not in document["metrics"]
    assert np.load(tmp_path / "run" / "predictions.npz").files == ["val_logits", "val_labels"]


def test_each_image_goes_through_the_encoder_once(
    probed: ProbeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = Encoder.forward

    def counted(self: Encoder, patches: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        seen.append(len(patches))
        return forward(self, patches, ids_keep)

    monkeypatch.setattr(Encoder, "forward", counted)
    probe(replace(probed, out=tmp_path / "run"))
    assert sum(seen) == 120 + 30


def test_the_table_has_each_classifier_at_its_best(probed: ProbeConfig) -> None:
    document = document_of(probed.out)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(trials_table(document))
    shown = console.export_text()
    assert " validation, 24 images " in shown
    assert " test, 30 images " in shown
    lines = [line for line in shown.splitlines() if "knn" in line or "linear" in line]
    assert len(lines) == 6
    metrics = document["metrics"]
    for classifier, prefix in (("knn", "knn"), ("linear", "probe")):
        (chosen,) = (line for line in lines if f"{classifier} *" in line)
        assert f" {' '.join(document[f'{prefix}_features'])} " in chosen
        assert f" {metrics[f'{prefix}_val_top1']:.2%} " in chosen
        assert f" {metrics[f'{prefix}_test_top1']:.2%} " in chosen


def test_the_settings_are_chosen_on_validation(photos: Path, pretrained: Path, tmp_path: Path) -> None:
    """A penalty so large, or neighbours so many, that only the classes' shares are learned lose."""
    for label, count in (("red", 30), ("green", 6), ("blue", 6)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for file in sorted((photos / label).iterdir())[:count]:
            (tmp_path / "photos" / label / file.name).write_bytes(file.read_bytes())
    config = ProbeConfig(
        data=tmp_path / "photos", init=pretrained, out=tmp_path / "run", penalties=(1e4, 1e-4), neighbors=(38, 3)
    )
    metrics = probe(config)
    assert (metrics["probe_penalty"], metrics["knn_k"]) == (1e-4, 3)
    assert min(metrics["probe_val_top1"], metrics["knn_val_top1"]) > 0.6  # the share of red


def test_labels_may_be_few(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    metrics = probe(ProbeConfig(data=packed.folder, init=pretrained, out=tmp_path / "run", label_fraction=0.1))
    document = document_of(tmp_path / "run")
    assert (document["num_train"], document["num_val"]) == (9, 3)
    assert metrics["knn_k"] in (1, 5)


def test_a_class_of_one_image_is_refused(photos: Path, pretrained: Path, tmp_path: Path) -> None:
    for label, count in (("red", 10), ("green", 10), ("blue", 1)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for file in sorted((photos / label).iterdir())[:count]:
            (tmp_path / "photos" / label / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TrainingError, match="a class with a single image cannot be learned and checked: blue; give it"):
        probe(ProbeConfig(data=tmp_path / "photos", init=pretrained, out=tmp_path / "run"))


def test_more_neighbours_than_images_are_an_error(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    config = ProbeConfig(data=packed.folder, init=pretrained, out=tmp_path / "run", neighbors=(500, 109))
    with pytest.raises(TrainingError, match="--neighbors 109 asks for more than the 108 images to learn from; lower"):
        probe(config)
    assert not (tmp_path / "run").exists()


def test_a_probe_is_not_written_over(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    config = ProbeConfig(data=packed.folder, init=pretrained, out=tmp_path / "run")
    probe(config)
    with pytest.raises(TrainingError, match="holds a run already"):
        probe(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"neighbors": ()}, "--neighbors must be at least one number, each at least 1"),
        ({"neighbors": (5, 0)}, "--neighbors must be at least one number, each at least 1"),
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
