"""From a folder of photographs to a network that paints what it does not see."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mae.masking import num_keep, random_masking
from mae.model import MaskedAutoencoder, Normalize
from mae.weights import load_mae
from training.data import center_batch
from training.errors import TrainingError
from training.pack import pack
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain

Terminated = Callable[[Callable[[], bool]], AbstractContextManager[None]]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def fixed_loss(model: MaskedAutoencoder, packed: PackedDataset) -> float:
    """On the packed images as they are, under one mask."""
    pixels = center_batch(packed, np.arange(len(packed)), model.config.image_size, torch.device("cpu"))
    noise = torch.rand(len(packed), model.config.num_patches, generator=torch.Generator().manual_seed(3))
    images = Normalize(model.config.mean, model.config.std)(pixels)
    with torch.inference_mode():
        return float(model(images, random_masking(noise, num_keep(model.config.num_patches, 0.75))).loss)


def test_the_loss_falls_and_the_weights_say_the_same(pretrained: Path, packed: PackedDataset) -> None:
    losses = [row["loss"] for row in metrics(pretrained) if "loss" in row]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    model = load_mae(pretrained)
    torch.manual_seed(0)
    assert fixed_loss(model, packed) < 0.5 * fixed_loss(MaskedAutoencoder(model.config), packed)
    document = json.loads((pretrained / "run.json").read_text())
    assert document["metrics"]["reconstruction_loss"] == pytest.approx(fixed_loss(model, packed), rel=0.1)


def test_the_network_is_what_was_asked_for(pretrained: Path, packed: PackedDataset) -> None:
    config = load_mae(pretrained).config
    assert (config.dim, config.depth, config.patch_size, config.image_size) == (192, 1, 8, (32, 32))
    assert (config.decoder_dim, config.decoder_depth, config.decoder_heads) == (32, 1, 2)
    assert (config.mean, config.std) == (packed.info.mean, packed.info.std)
    assert (config.target, config.loss) == ("normalized", "mse")


def test_the_run_says_what_it_was(pretrained: Path, packed: PackedDataset) -> None:
    document = json.loads((pretrained / "run.json").read_text())
    assert document["kind"] == "pretrain"
    assert document["epochs"] == document["recipe"]["epochs"] == 10
    assert document["recipe"]["warmup_epochs"] == 1  # a tenth of the run, not the recipe's 20
    assert document["data"]["num_images"] == 120
    assert document["data"]["pack_size"] == [32, 32]
    assert document["data"]["mean"] == list(packed.info.mean)
    assert document["data"]["classes"] == ["blue", "green", "red"]


def test_pictures_every_so_many_epochs_and_at_the_end(pretrained: Path) -> None:
    pictures = sorted((pretrained / "reconstructions").iterdir())
    assert [path.name for path in pictures] == ["epoch-0004.png", "epoch-0008.png", "epoch-0010.png"]
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (3 * 128 + 2 * 4, 8 * 128 + 7 * 4)  # three columns of eight images, enlarged


@pytest.mark.parametrize(("side", "name"), [(32, "px32"), (70, "px64"), (96, "px96")])
def test_nothing_but_data_and_out_picks_a_recipe(
    side: int,
    name: str,
    tmp_path: Path,
    photos: Path,
    command: Callable[..., Any],
    terminated_once: Terminated,
) -> None:
    """Stopped after its first step: the whole recipe is 400 epochs."""
    (tmp_path / "photos").mkdir()
    for file in sorted(photos.rglob("*.jpg"))[::60]:
        Image.open(file).resize((side + 9, side)).save(tmp_path / "photos" / f"{file.parent.name}.jpg")
    with terminated_once((tmp_path / "run" / "run.json").exists):
        outcome = command("training.pretrain", "--data", tmp_path / "photos", "--out", tmp_path / "run")
    assert outcome.status == 143, outcome.err
    assert "the state is saved, go on with --resume" in outcome.err
    size = int(name.removeprefix("px"))
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert (recipe["image_size"], recipe["pack_size"]) == ([size, size], [size, size])
    assert (recipe["preset"], recipe["epochs"], recipe["patch_size"]) == ("tiny", 400, 4 if size == 32 else 8)
    assert f"2 images of {size}x{size}" in outcome.err


def test_bf16_trains_fp32_weights(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretrain(PretrainConfig(data=str(packed.folder), out=tmp_path / "run", epochs=1, precision="bf16", **tiny))
    assert "bf16 on cpu" in capsys.readouterr().err
    assert {value.dtype for value in load_mae(out).state_dict().values()} == {torch.float32}
    assert all(np.isfinite(row.get("loss", 0.0)) for row in metrics(out))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts_train(channels: int, photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    packed = pack(photos, tmp_path / "pack", channels=channels)
    out = pretrain(
        PretrainConfig(data=str(packed.folder), out=tmp_path / "run", epochs=1, target="raw", loss="l1", **tiny)
    )
    config = load_mae(out).config
    assert (config.channels, config.target, config.loss) == (channels, "raw", "l1")
    assert (out / "reconstructions" / "epoch-0001.png").exists()


def test_a_larger_pack_is_cut_to_the_network(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    packed = pack(photos, tmp_path / "pack", size=(36, 40))
    out = pretrain(PretrainConfig(data=str(packed.folder), out=tmp_path / "run", epochs=1, **{**tiny, "recipe": None}))
    assert load_mae(out).config.image_size == (32, 32)


def test_fewer_images_than_a_batch_are_one_batch(
    photos: Path, tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "photos"
    few.mkdir()
    for file in sorted(photos.rglob("*.jpg"))[:5]:
        (few / file.name).write_bytes(file.read_bytes())
    out = pretrain(PretrainConfig(data=str(few), out=tmp_path / "run", epochs=2, **tiny))
    assert metrics(out)[-1] == {"step": 2, "epoch": 2}
    told = capsys.readouterr().err
    assert "; 2 epochs of 1 step of 5; " in told
    assert "\nonly 2 steps in all, too few to learn from; for 100 and more raise --epochs, now 2, or lower " in told


def test_enough_steps_are_not_warned_of(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {**tiny, "batch_size": 12}
    for epochs, warned in ((9, True), (10, False)):  # of 10 steps
        pretrain(PretrainConfig(data=str(packed.folder), out=tmp_path / f"{epochs}", epochs=epochs, **flags))
        assert ("too few to learn from" in capsys.readouterr().err) is warned


def test_two_seeds_are_two_runs_and_one_seed_is_one(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    config = PretrainConfig(data=str(packed.folder), out=tmp_path / "a", epochs=1, **tiny)
    runs = [config, replace(config, out=tmp_path / "b"), replace(config, out=tmp_path / "c", seed=1)]
    first, again, other = ((pretrain(run) / "model.safetensors").read_bytes() for run in runs)
    assert first == again
    assert first != other


@pytest.fixture(scope="module")
def plain(packed: PackedDataset, tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> PretrainConfig:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    config = PretrainConfig(data=str(packed.folder), out=out, epochs=1, blr=1e-3, warmup_epochs=0.0, **tiny)
    pretrain(config)
    return config


@pytest.mark.parametrize(
    "changed",
    [
        {"mask_ratio": 0.5}, {"crop_scale": (0.9, 1.0)}, {"target": "raw"}, {"loss": "l1"}, {"blr": 2e-3},
        {"weight_decay": 0.5}, {"warmup_epochs": 0.75}, {"batch_size": 40}, {"decoder_depth": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_every_setting_reaches_the_training(changed: dict[str, Any], plain: PretrainConfig, tmp_path: Path) -> None:
    weights = [out / "model.safetensors" for out in (plain.out, pretrain(replace(plain, out=tmp_path, **changed)))]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_the_recipes_pack_is_demanded_of_a_packed_folder(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    with pytest.raises(TrainingError, match=r"holds images of \(32, 32\), \(64, 64\) are needed"):
        pretrain(PretrainConfig(data=str(packed.folder), out=tmp_path / "run", **{**tiny, "recipe": "px64"}))


def test_a_start_that_fails_can_be_corrected(packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]) -> None:
    """Whatever is wrong is found before run.json is written, so the next try is no resume."""
    out = tmp_path / "run"
    for wrong in ({"patch_size": 5}, {"warmup_epochs": 50.0}, {"mask_ratio": 0.99}, {"decoder_dim": 30}):
        with pytest.raises(ValueError, match=r"patch_size|warm-up|mask_ratio|decoder_dim"):
            pretrain(PretrainConfig(data=str(packed.folder), out=out, epochs=1, **{**tiny, **wrong}))
        assert not out.exists()
    pretrain(PretrainConfig(data=str(packed.folder), out=out, epochs=1, **tiny))


def test_a_run_leaves_samples_of_its_data_as_the_service_would_see_them(
    pretrained: Path, packed: PackedDataset
) -> None:
    with np.load(pretrained / "samples.npz") as arrays:
        images = arrays["images"]
    np.testing.assert_array_equal(images, packed.pixels(np.arange(len(packed))))  # fewer than 256: all of them


def test_of_many_images_and_of_larger_ones_samples_are_the_middle_of_some(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.pretraining._SAMPLES", 4)
    small = {**tiny, "image_size": 16, "patch_size": 8}
    out = pretrain(PretrainConfig(data=str(packed.folder), out=tmp_path / "run", epochs=1, **small))
    with np.load(out / "samples.npz") as arrays:
        images = arrays["images"]
    ids = np.array([0, 39, 79, 119])
    np.testing.assert_array_equal(images, packed.pixels(ids)[:, 8:24, 8:24])
