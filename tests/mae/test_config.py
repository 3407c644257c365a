"""A config that cannot be wrong for long: every message names the field and what it may be."""

from __future__ import annotations

from typing import Any

import pytest

from mae.config import PRESETS, MAEConfig, PresetName, preset


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "model.depth must be at least 1, got 0"),
        ({"decoder_heads": -1}, "model.decoder_heads must be at least 1, got -1"),
        ({"image_size": (224, 100)}, r"model.image_size \(224, 100\) must be multiples of patch_size 16"),
        ({"image_size": (8, 16)}, r"model.image_size \(8, 16\) must be multiples of patch_size 16"),
        ({"dim": 100}, "model.dim 100 must be a multiple of heads 12"),
        ({"decoder_dim": 100}, "model.decoder_dim 100 must be a multiple of decoder_heads 16"),
        ({"dim": 18, "heads": 3}, "model.dim 18 must be a multiple of 4"),
        ({"decoder_dim": 6, "decoder_heads": 2}, "model.decoder_dim 6 must be a multiple of 4"),
        ({"mlp_ratio": 0}, "model.mlp_ratio must be positive, got 0"),
        ({"target": "pixels"}, "model.target must be 'raw' or 'normalized', got 'pixels'"),
        ({"loss": "huber"}, "model.loss must be 'mse' or 'l1', got 'huber'"),
        ({"channels": 1}, "model.mean and model.std must have 1 values, one per channel"),
        ({"std": (0.2, 0.0, 0.2)}, r"model.std must be positive, got \(0.2, 0.0, 0.2\)"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAEConfig(**fields)


def test_sizes_that_follow_from_others() -> None:
    config = MAEConfig(image_size=(32, 64), patch_size=8, channels=4, mean=(0.5,) * 4, std=(0.2,) * 4)
    assert config.grid == (4, 8)
    assert config.num_patches == 32
    assert config.patch_dim == 256


@pytest.mark.parametrize(
    ("name", "dim", "depth", "heads"),
    [
        ("tiny", 192, 12, 3),
        ("small", 384, 12, 6),
        ("base", 768, 12, 12),
        ("large", 1024, 24, 16),
        ("huge", 1280, 32, 16),
    ],
)
def test_presets_are_the_published_widths(name: PresetName, dim: int, depth: int, heads: int) -> None:
    config = preset(name)
    assert (config.dim, config.depth, config.heads) == (dim, depth, heads)
    assert config.patch_size == (14 if name == "huge" else 16)


def test_a_preset_can_be_overridden() -> None:
    assert preset("tiny", depth=2, image_size=(64, 64)).depth == 2
    assert preset("huge", patch_size=16).patch_size == 16


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"preset must be one of {', '.join(PRESETS)}, got 'giant'"):
        preset("giant")  # type: ignore[arg-type]
