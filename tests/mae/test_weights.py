"""Weights on disk: what is written comes back, and what is broken says so in one documented way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mae.classifier import Classifier, ClassifierConfig, LinearHead, LinearHeadConfig
from mae.config import MAEConfig
from mae.model import MaskedAutoencoder
from mae.pretrained import PretrainedEncoder
from mae.resize import resized
from mae.weights import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Network,
    load_mae,
    load_model,
    load_pretrained,
    save_model,
    weights_bytes,
)

CONFIG = MAEConfig(
    image_size=(8, 16), patch_size=4, channels=1, dim=24, depth=2, heads=3, decoder_dim=8, decoder_depth=1,
    decoder_heads=2, target="raw", loss="l1", mean=(0.4,), std=(0.3,),
)  # fmt: skip
MODELS: dict[str, Network] = {
    "mae": MaskedAutoencoder(CONFIG),
    "classifier": Classifier(ClassifierConfig(encoder=CONFIG, num_classes=3, pooling="cls", drop_path=0.1)),
    "head": LinearHead(LinearHeadConfig(inputs=("cls", "mean"), dim=24, num_classes=3)),
    "encoder": PretrainedEncoder(CONFIG),
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(MODELS["mae"], tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_round_trip_keeps_kind_config_and_every_bit(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]
    save_model(model, tmp_path / "new" / "folder")
    loaded = load_model(tmp_path / "new" / "folder")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_saving_again_replaces(saved: Path) -> None:
    other = MaskedAutoencoder(CONFIG)
    save_model(other, saved)
    assert torch.equal(load_mae(saved).encoder.cls_token, other.encoder.cls_token)


def test_interpolated_positions_are_kept(tmp_path: Path) -> None:
    """They are not what a fresh table of that size would hold, so the file must carry them."""
    larger = resized(MaskedAutoencoder(CONFIG), image_size=(16, 16))
    save_model(larger, tmp_path)
    loaded = load_mae(tmp_path)
    assert torch.equal(loaded.encoder.pos_embed, larger.encoder.pos_embed)
    assert not torch.equal(loaded.encoder.pos_embed, MaskedAutoencoder(larger.config).encoder.pos_embed)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        load_model(saved)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_half_a_file_is_a_value_error(name: str, part: float, saved: Path) -> None:
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match="does not hold weights that this version reads"):
        load_model(saved)


@pytest.mark.parametrize(
    "document",
    [
        "\xff",
        "[]",
        "null",
        "{}",
        '{"format": "maeve-mae"}',
        '{"format": "maeve-mae", "config": "tiny"}',
        '{"format": "maeve-mae", "config": {"colour": "red"}}',
        '{"format": "maeve-mae", "config": {"dim": "wide"}}',
        '{"format": "maeve-mae", "config": {"patch_size": 5}}',
        '{"format": ["maeve-mae"], "config": {}}',
        '{"format": "maeve-classifier", "config": {"num_classes": 3}}',
        '{"format": "maeve-head", "config": {"inputs": 3}}',
        '{"format": "maeve-v9", "config": {}}',
    ],
)
def test_a_config_of_another_shape_is_a_value_error(document: str, saved: Path) -> None:
    (saved / CONFIG_FILE).write_bytes(document.encode("latin-1"))
    with pytest.raises(ValueError, match="does not hold weights that this version reads"):
        load_model(saved)


def test_weights_of_another_size_are_a_value_error(saved: Path) -> None:
    document: dict[str, Any] = json.loads((saved / CONFIG_FILE).read_text())
    document["config"]["dim"] = 48
    (saved / CONFIG_FILE).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"(?s)does not hold weights that this version reads.*size mismatch"):
        load_model(saved)


def test_an_unknown_format_names_the_known_ones(saved: Path) -> None:
    (saved / CONFIG_FILE).write_text('{"format": "timm", "config": {}}')
    with pytest.raises(
        ValueError, match="unknown format 'timm'; known: maeve-mae, maeve-classifier, maeve-head, maeve-e"
    ):
        load_model(saved)


@pytest.mark.parametrize("kind", ["classifier", "head", "encoder"])
def test_load_mae_takes_nothing_else(kind: str, tmp_path: Path) -> None:
    save_model(MODELS[kind], tmp_path)
    with pytest.raises(ValueError, match=f"holds a {type(MODELS[kind]).__name__}, not a pre-trained"):
        load_mae(tmp_path)


@pytest.mark.parametrize("kind", ["mae", "encoder"])
def test_load_pretrained_takes_an_encoder_with_or_without_its_decoder(kind: str, tmp_path: Path) -> None:
    save_model(MODELS[kind], tmp_path)
    loaded = load_pretrained(tmp_path)
    assert type(loaded) is type(MODELS[kind])
    assert loaded.config == CONFIG


@pytest.mark.parametrize("kind", ["classifier", "head"])
def test_load_pretrained_takes_nothing_else(kind: str, tmp_path: Path) -> None:
    save_model(MODELS[kind], tmp_path)
    with pytest.raises(ValueError, match=f"holds a {type(MODELS[kind]).__name__}, not a pre-trained"):
        load_pretrained(tmp_path)


def test_the_bytes_are_the_file_s(saved: Path) -> None:
    assert weights_bytes(MODELS["mae"]) == (saved / WEIGHTS_FILE).read_bytes()
