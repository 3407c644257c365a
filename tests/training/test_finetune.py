"""A classifier from few labels, started from a pre-training run or from nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mae.classifier import Classifier
from mae.model import Normalize
from mae.weights import load_mae, load_model
from training.data import Ids, center_batch, split_labeled
from training.errors import Terminated, TrainingError
from training.finetune import FinetuneConfig, finetune
from training.finetune_recipes import FINETUNE_RECIPES
from training.pack import pack
from training.packed import LABELS_FILE, PackedDataset
from training.pretrain import PretrainConfig, pretrain

# Two blocks, since the first of a network never drops its path.
PLAIN: dict[str, Any] = {"epochs": 2, "depth": 2, "batch_size": 30, "drop_path": 0.1}
QUICK: dict[str, Any] = {"epochs": 4, "warmup_epochs": 1.0, "batch_size": 12, "blr": 2e-2}


def from_run(packed: PackedDataset, init: Path, out: Path, **changes: Any) -> FinetuneConfig:
    return FinetuneConfig(**{"data": packed.folder, "init": init, "out": out, **QUICK, **changes})


def from_scratch(packed: PackedDataset, out: Path, tiny: dict[str, Any], **changes: Any) -> FinetuneConfig:
    return from_run(packed, Path("none"), out, **{**tiny, "batch_size": 12, "layer_decay": 1.0, **changes})


def document(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "run.json").read_text())
    return loaded


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def accuracy(run: Path, packed: PackedDataset, ids: Ids) -> float:
    """Of the weights on disk."""
    model = load_model(run)
    assert isinstance(model, Classifier)
    encoder = model.config.encoder
    pixels = center_batch(packed, ids, encoder.image_size, torch.device("cpu"))
    with torch.inference_mode():
        logits = model(Normalize(encoder.mean, encoder.std)(pixels))
    return float((logits.argmax(dim=1).numpy() == packed.labels[ids]).mean())


def macro_f1(answers: Ids, labels: Ids) -> float:
    """The mean over three classes of 2 TP / (2 TP + FP + FN)."""
    hits = [int(((answers == c) & (labels == c)).sum()) for c in range(3)]
    sizes = [int((answers == c).sum() + (labels == c).sum()) for c in range(3)]
    return float(np.mean([2 * hit / size for hit, size in zip(hits, sizes, strict=True)]))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_from_a_pretraining_run(
    pooling: Any, packed: PackedDataset, pretrained: Path, other_photos: Path, tmp_path: Path
) -> None:
    """What run.json claims of the test set is what the weights on disk do."""
    out = tmp_path / "run"
    metrics = finetune(from_run(packed, pretrained, out, test=other_photos, pooling=pooling))
    assert metrics["val_top1"] > 0.8
    assert metrics["test_top1"] > 0.8  # chance is a third
    assert document(out)["metrics"] == metrics
    assert json.loads((out / "labels.json").read_text()) == ["blue", "green", "red"]
    model = load_model(out)
    assert isinstance(model, Classifier)
    assert model.config.pooling == pooling
    assert model.config.encoder == load_mae(pretrained).config
    test = PackedDataset(out / "pack-test")
    assert metrics["test_top1"] == accuracy(out, test, np.arange(len(test)))
    assert sorted(metrics) == ["test_f1", "test_top1", "val_f1", "val_top1"]
    with np.load(out / "predictions.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["test_labels", "test_logits", "val_labels", "val_logits"]
        assert arrays["test_labels"].tolist() == test.labels.tolist()
        assert arrays["val_logits"].shape == (12, 3)
        for name in ("val", "test"):
            answers, labels = arrays[f"{name}_logits"].argmax(axis=1), arrays[f"{name}_labels"]
            assert metrics[f"{name}_top1"] == (answers == labels).mean()
            assert metrics[f"{name}_f1"] == pytest.approx(macro_f1(answers, labels))


def test_from_scratch_trains_the_same_network(
    packed: PackedDataset, pretrained: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    metrics = finetune(from_scratch(packed, tmp_path / "run", tiny))
    assert metrics["val_top1"] > 0.8
    assert "test_top1" not in metrics
    model = load_model(tmp_path / "run")
    assert isinstance(model, Classifier)
    assert model.config.encoder == load_mae(pretrained).config


def test_accuracy_is_that_of_the_network_at_rest(packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]) -> None:
    """Labels that nothing can learn leave it undecided, so that a path dropped by mistake would show."""
    shutil.copytree(packed.folder, tmp_path / "pack")
    np.save(tmp_path / "pack" / LABELS_FILE, np.random.default_rng(0).permutation(packed.labels))
    shuffled = PackedDataset(tmp_path / "pack")
    config = from_scratch(shuffled, tmp_path / "run", tiny, epochs=3, depth=3, drop_path=0.5, val_fraction=0.5)
    metrics = finetune(config)
    _, val_ids = split_labeled(shuffled, config.label_fraction, config.val_fraction, config.seed)
    assert metrics["val_top1"] == accuracy(tmp_path / "run", shuffled, val_ids)


def test_pretraining_is_where_it_starts(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    """At a learning rate of nearly nothing the encoder stays what it was."""
    finetune(from_run(packed, pretrained, tmp_path / "run", epochs=1, blr=1e-12, min_lr=0.0, weight_decay=0.0))
    before, after = load_mae(pretrained).encoder.state_dict(), load_model(tmp_path / "run").state_dict()
    for name, value in before.items():
        if not name.startswith("norm."):  # replaced by fc_norm
            torch.testing.assert_close(after[f"encoder.{name}"], value, rtol=0, atol=1e-6)


def test_validation_is_held_out_and_logged_each_epoch(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    finetune(from_run(packed, pretrained, tmp_path / "run", val_fraction=0.25))
    assert (document(tmp_path / "run")["num_train"], document(tmp_path / "run")["num_val"]) == (90, 30)
    scores = [(row["epoch"], row["val_top1"]) for row in rows(tmp_path / "run") if "val_top1" in row]
    assert [epoch for epoch, _ in scores] == [1, 2, 3, 4]
    assert scores[-1][1] == document(tmp_path / "run")["metrics"]["val_top1"]
    epochs = [row for row in rows(tmp_path / "run") if "val_top1" in row]
    assert all(0 < row["val_loss"] < 2 and 0 <= row["val_f1"] <= 1 for row in epochs)
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]


@pytest.mark.parametrize(("fraction", "num_train", "num_val"), [(0.1, 9, 3), (0.3, 33, 3), (0.05, 3, 3)])
def test_few_labels_are_few(
    fraction: float, num_train: int, num_val: int, packed: PackedDataset, pretrained: Path, tmp_path: Path
) -> None:
    """Of 40 images a class: 4, 12 and 2, one of which is held out."""
    finetune(from_run(packed, pretrained, tmp_path / "run", label_fraction=fraction, epochs=1))
    found = document(tmp_path / "run")
    assert (found["num_train"], found["num_val"]) == (num_train, num_val)


@pytest.fixture(scope="module")
def plain(packed: PackedDataset, tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> bytes:
    """The weights that the settings of PLAIN lead to."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    finetune(from_scratch(packed, out, tiny, **PLAIN))
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"layer_decay": 0.5}, {"drop_path": 0.5}, {"label_smoothing": 0.5}, {"crop_scale": (0.9, 1.0)}, {"blr": 1e-3},
        {"min_lr": 1e-3}, {"weight_decay": 0.5}, {"warmup_epochs": 0.3}, {"batch_size": 20}, {"pooling": "cls"},
        {"seed": 1}, {"label_fraction": 0.5}, {"val_fraction": 0.5}, {"randaugment": 5.0}, {"randaugment": 0.0},
        {"erasing": 0.0}, {"mixup": 0.0}, {"cutmix": 0.0}, {"ema": 0.5}, {"finetune_recipe": "plain"},
    ],
    ids=lambda changed: "-".join(map(str, *changed.items())),
)  # fmt: skip
def test_every_setting_reaches_the_training(
    changed: dict[str, Any], plain: bytes, packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    finetune(from_scratch(packed, tmp_path / "run", tiny, **{**PLAIN, **changed}))
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != plain


def test_a_stopped_run_resumes_to_the_same_bytes(
    packed: PackedDataset,
    tmp_path: Path,
    tiny: dict[str, Any],
    terminated_once: Callable[[Callable[[], bool]], AbstractContextManager[None]],
) -> None:
    """Drop path, every augmentation and the average included; stopped at whatever step the signal finds it."""
    config = from_scratch(packed, tmp_path / "straight", tiny, depth=2, drop_path=0.5, ema=0.9)
    finetune(config)
    stopped = replace(config, out=tmp_path / "stopped", resume=True)
    with (
        terminated_once((tmp_path / "stopped" / "metrics.jsonl").exists),
        pytest.raises(Terminated, match="the state is saved"),
    ):
        finetune(stopped)
    step = torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["step"]
    assert 1 <= step < 36
    metrics = finetune(stopped)
    assert metrics == document(tmp_path / "straight")["metrics"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "stopped")]
    assert weights[0] == weights[1]
    recipe = document(tmp_path / "stopped")["recipe"]
    assert min(recipe[name] for name in ("randaugment", "erasing", "mixup", "cutmix", "label_smoothing", "ema")) > 0
    assert [row["epoch"] for row in rows(tmp_path / "stopped") if "val_top1" in row] == [1, 2, 3, 4]


def test_a_grey_network_packs_its_labeled_images_grey(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    grey = pack(photos, tmp_path / "grey", channels=1)
    run = pretrain(PretrainConfig(data=str(grey.folder), out=tmp_path / "pretrained", epochs=1, **tiny))
    finetune(FinetuneConfig(data=photos, init=run, out=tmp_path / "run", **{**QUICK, "epochs": 1}))
    assert PackedDataset(tmp_path / "run" / "pack").info.channels == 1


def test_a_pack_of_other_channels_is_refused(
    photos: Path, packed: PackedDataset, pretrained: Path, tmp_path: Path
) -> None:
    grey = pack(photos, tmp_path / "grey", channels=1)
    with pytest.raises(TrainingError, match="holds 1 channels, 3 are needed; pack images with --channels 3"):
        finetune(from_run(packed, pretrained, tmp_path / "run", data=grey.folder))


def test_the_networks_flags_go_with_scratch_alone(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--patch-size goes with --init none; a run brings its own network"):
        from_run(packed, pretrained, tmp_path / "run", patch_size=8)


def test_a_start_that_fails_can_be_corrected(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    """Whatever is wrong is found before run.json is written, so the next try is no resume."""
    out = tmp_path / "run"
    for wrong in ({"drop_path": 1.5}, {"warmup_epochs": -1.0}, {"val_fraction": 0.0}, {"label_fraction": 2.0}):
        with pytest.raises(ValueError, match=r"drop_path|warm-up|--val-fraction|--label-fraction"):
            finetune(from_run(packed, pretrained, out, **wrong))
        assert not out.exists()
    finetune(from_run(packed, pretrained, out, epochs=1))


def test_the_average_of_the_weights_is_what_is_kept(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    """At a decay this near to one the average lags behind the weights, and the figures are the average's."""
    metrics = finetune(from_run(packed, pretrained, tmp_path / "run", ema=0.999, val_fraction=0.5))
    saved = load_model(tmp_path / "run").state_dict()
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(saved[name], value) for name, value in checkpoint["ema"].items())
    assert not torch.equal(saved["head.weight"], checkpoint["model"]["head.weight"])
    _, val_ids = split_labeled(packed, 1.0, 0.5, 0)
    assert metrics["val_top1"] == accuracy(tmp_path / "run", packed, val_ids)
    assert metrics["val_top1"] > 0.8


def test_a_checkpoint_without_the_average_is_refused(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    config = from_run(packed, pretrained, tmp_path / "run", ema=0.9, epochs=1, resume=True)
    finetune(config)
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["ema"]
    torch.save(state, path)
    with pytest.raises(TrainingError, match="holds the checkpoint of another network: 'ema'"):
        finetune(config)


def test_the_recipe_is_written_down_as_it_was_used(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    finetune(from_run(packed, pretrained, tmp_path / "run", epochs=1, mixup=0.3))
    recipe = document(tmp_path / "run")["recipe"]
    assert recipe["name"] == "px32"
    expected = replace(FINETUNE_RECIPES["px32"], epochs=1, warmup_epochs=0.2, batch_size=12, blr=2e-2, mixup=0.3)
    assert recipe == {"name": "px32", **json.loads(json.dumps(asdict(expected)))}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_batch_of_one_and_an_odd_one_are_batches(
    batch_size: int, packed: PackedDataset, pretrained: Path, tmp_path: Path
) -> None:
    """Of two images a class one is held out, so three are left."""
    config = from_run(
        packed,
        pretrained,
        tmp_path / "run",
        batch_size=batch_size,
        epochs=1,
        label_fraction=0.05 if batch_size == 1 else 1.0,
    )
    assert finetune(config)["val_top1"] >= 0
    assert document(tmp_path / "run")["recipe"]["batch_size"] == batch_size


def test_a_class_with_one_image_is_refused(packed: PackedDataset, pretrained: Path, tmp_path: Path) -> None:
    """It could be learned or held out, not both."""
    shutil.copytree(packed.folder, tmp_path / "pack")
    labels = np.where(packed.labels == 2, 1, packed.labels)
    labels[-1] = 2
    np.save(tmp_path / "pack" / LABELS_FILE, labels)
    with pytest.raises(TrainingError, match="a class with a single image cannot be learned and checked: red; give it"):
        finetune(from_run(PackedDataset(tmp_path / "pack"), pretrained, tmp_path / "run", epochs=1))


def test_a_finished_run_keeps_what_it_said_of_the_test_set(
    packed: PackedDataset, other_photos: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {name: value for name, value in tiny.items() if name != "recipe"}
    config = FinetuneConfig(
        data=packed.folder, out=tmp_path / "run", init=Path("none"), test=other_photos, recipe="px32", epochs=1, **flags
    )
    metrics = finetune(config)
    before = json.loads((tmp_path / "run" / "run.json").read_text())

    def looked(*_args: object) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr("training.finetuning._Finetuning.predict", looked)
    assert finetune(replace(config, resume=True)) == metrics
    after = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (after["metrics"], after["started_at"]) == (before["metrics"], before["started_at"])
