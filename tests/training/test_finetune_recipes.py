"""What is fine-tuned with when little is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mae.config import PresetName, preset
from training.finetune_recipes import (
    FINETUNE_RECIPES,
    FinetuneFlags,
    FinetuneRecipe,
    FinetuneRecipeName,
    choose_finetune_recipe,
    resolve,
)

TINY32 = preset("tiny", image_size=(32, 32), patch_size=4)
LARGE = 10**6  # images


@pytest.mark.parametrize(
    ("network", "side", "from_scratch", "expected"),
    [
        ("tiny", 32, False, "px32"), ("tiny", 48, True, "px32"), ("tiny", 64, False, "px64"),
        ("small", 96, False, "px96"), ("small", 224, True, "px96"), ("base", 32, False, "base"),
        ("base", 224, False, "base"), ("large", 224, False, "large"), ("huge", 224, False, "huge"),
        ("base", 224, True, "scratch-base"), ("large", 224, True, "scratch-large"),
        ("huge", 224, True, "scratch-large"),
    ],
)  # fmt: skip
def test_the_networks_size_chooses(network: PresetName, side: int, from_scratch: bool, expected: str) -> None:
    patch = 14 if network == "huge" else 16
    config = preset(network, image_size=(side, 2 * side), patch_size=patch)
    assert choose_finetune_recipe(config, from_scratch=from_scratch) == expected


@pytest.mark.parametrize(
    ("name", "epochs", "blr", "layer_decay", "drop_path"),
    [("base", 100, 5e-4, 0.65, 0.1), ("large", 50, 1e-3, 0.75, 0.2), ("huge", 50, 1e-3, 0.75, 0.3)],
)
def test_the_papers_recipes(
    name: FinetuneRecipeName, epochs: int, blr: float, layer_decay: float, drop_path: float
) -> None:
    """He et al. 2021, table 9, and what its code adds."""
    assert FINETUNE_RECIPES[name] == FinetuneRecipe(
        epochs=epochs, warmup_epochs=5.0, batch_size=1024, blr=blr, min_lr=1e-6, layer_decay=layer_decay,
        drop_path=drop_path, weight_decay=0.05, betas=(0.9, 0.999), label_smoothing=0.1, crop_scale=(0.08, 1.0),
        randaugment=9.0, erasing=0.25, mixup=0.8, cutmix=1.0, ema=0.0,
    )  # fmt: skip


def test_what_the_flags_set_wins_and_the_rest_is_the_recipes() -> None:
    flags = FinetuneFlags(epochs=7, mixup=0.0, ema=0.9, warmup_epochs=1.0)
    name, recipe = resolve(flags, TINY32, LARGE, from_scratch=False)
    assert name == "px32"
    assert recipe == replace(FINETUNE_RECIPES["px32"], epochs=7, mixup=0.0, ema=0.9, warmup_epochs=1.0)
    named = resolve(FinetuneFlags(finetune_recipe="huge"), TINY32, LARGE, from_scratch=False)
    assert named == ("huge", FINETUNE_RECIPES["huge"])


def test_every_setting_of_a_recipe_but_the_betas_has_a_flag() -> None:
    flags = {name for name in FinetuneFlags.__dataclass_fields__ if name != "finetune_recipe"}
    assert flags == set(FinetuneRecipe.__dataclass_fields__) - {"betas"}
    given: dict[str, Any] = {
        "epochs": 50, "warmup_epochs": 1.5, "batch_size": 3, "blr": 0.5, "min_lr": 0.25, "layer_decay": 0.125,
        "drop_path": 0.0625, "weight_decay": 2.0, "label_smoothing": 0.75, "crop_scale": (0.5, 0.625),
        "randaugment": 4.0, "erasing": 0.875, "mixup": 8.0, "cutmix": 16.0, "ema": 0.375,
    }  # fmt: skip
    assert set(given) == flags
    _, recipe = resolve(FinetuneFlags(**given), TINY32, LARGE, from_scratch=True)
    assert recipe == FinetuneRecipe(**given)


@pytest.mark.parametrize("name", list(FINETUNE_RECIPES))
def test_from_scratch_every_layer_learns_at_the_full_rate(name: FinetuneRecipeName) -> None:
    flags = FinetuneFlags(finetune_recipe=name)
    assert resolve(flags, TINY32, LARGE, from_scratch=True)[1].layer_decay == 1
    _, recipe = resolve(replace(flags, layer_decay=0.5), TINY32, LARGE, from_scratch=True)
    assert recipe.layer_decay == 0.5


@pytest.mark.parametrize(
    ("num_train", "flags", "expected"),
    [
        (10**6, FinetuneFlags(), 1024), (16384, FinetuneFlags(), 1024), (16383, FinetuneFlags(), 512),
        (500, FinetuneFlags(), 16), (600, FinetuneFlags(), 32), (100, FinetuneFlags(), 16), (9, FinetuneFlags(), 9),
        (500, FinetuneFlags(batch_size=256), 256), (200, FinetuneFlags(batch_size=256), 200),
    ],
)  # fmt: skip
def test_a_small_set_gets_small_batches(num_train: int, flags: FinetuneFlags, expected: int) -> None:
    """At least 16 steps an epoch unless the batch is asked for; never less than 16 images, nor more than there are."""
    network = preset("base")
    assert resolve(flags, network, num_train, from_scratch=False)[1].batch_size == expected


def test_a_warm_up_takes_at_most_a_fifth() -> None:
    assert resolve(FinetuneFlags(epochs=10), TINY32, LARGE, from_scratch=False)[1].warmup_epochs == 2
    assert resolve(FinetuneFlags(epochs=40), TINY32, LARGE, from_scratch=False)[1].warmup_epochs == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "--epochs and --batch-size must be at least 1, got 0 and 128"),
        ({"layer_decay": 1.5}, r"--layer-decay must lie in \(0, 1\], got 1\.5"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be at least 0 and below 1, got 1"),
        ({"blr": 0.0}, "--blr must be positive"),
        ({"weight_decay": -1.0}, "--weight-decay must not be negative, got -1"),
        ({"erasing": 1.5}, r"--erasing must lie in 0\.\.1, got 1\.5"),
        ({"ema": 1.0}, "--ema must be at least 0 and below 1, got 1"),
        ({"randaugment": 11.0}, r"--randaugment must lie in 0\.\.10, got 11"),
        ({"mixup": -1.0}, "--mixup and --cutmix must not be negative, got -1"),
        ({"crop_scale": (0.0, 1.0)}, "crop.scale must be an increasing range"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneRecipe(**fields)
