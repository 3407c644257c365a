"""What a step of fine-tuning sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mae.config import MAEConfig, preset
from training.finetune_augment import FinetuneAugment
from training.finetune_recipes import FINETUNE_RECIPES, FinetuneRecipe

ALL = FINETUNE_RECIPES["px32"]
OFF = replace(ALL, randaugment=0.0, erasing=0.0, mixup=0.0, cutmix=0.0, label_smoothing=0.0)
CPU = torch.device("cpu")
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2])


def network(channels: int = 3) -> MAEConfig:
    return preset(
        "tiny", image_size=(32, 24), patch_size=8, channels=channels, mean=(0.4,) * channels, std=(0.2,) * channels
    )


def pixels(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (len(LABELS), channels, 40, 30), dtype=torch.uint8, generator=generator)


def seen(recipe: FinetuneRecipe, step: int = 3, *, seed: int = 0, channels: int = 3) -> tuple[Tensor, Tensor]:
    return FinetuneAugment(recipe, network(channels), 3, CPU)(pixels(channels), LABELS, seed, step)


def steps_that_differ(recipe: FinetuneRecipe, other: FinetuneRecipe) -> int:
    return sum(not torch.equal(seen(recipe, step)[0], seen(other, step)[0]) for step in range(20))


@pytest.mark.parametrize("changed", [{"randaugment": 9.0}, {"erasing": 0.25}, {"mixup": 0.8}, {"cutmix": 1.0}])
def test_each_augmentation_changes_the_inputs(changed: dict[str, Any]) -> None:
    """Of a batch of seven, erasing leaves all alone every eighth time, and a box of CutMix may have no pixel."""
    assert steps_that_differ(replace(OFF, **changed), OFF) >= 14


def test_nothing_but_the_crop_is_left_where_all_is_off() -> None:
    images, targets = seen(OFF)
    assert images.shape == (7, 3, 32, 24)
    assert torch.equal(targets, torch.nn.functional.one_hot(LABELS).float())
    lowest, highest = (0 - 0.4) / 0.2, (1 - 0.4) / 0.2
    assert lowest - 1e-5 <= float(images.min()) < lowest + 0.5
    assert highest - 0.5 < float(images.max()) <= highest + 1e-5


def test_a_step_sees_the_same_whenever_it_is_made() -> None:
    """Whatever the global generator did meanwhile."""
    first = seen(ALL, 5)
    torch.manual_seed(99)
    torch.rand(7)
    again = seen(ALL, 5)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], seen(ALL, 6)[0])
    assert not torch.equal(first[0], seen(ALL, 5, seed=1)[0])


def test_targets_follow_the_mixing() -> None:
    """Every image is of one value, its label's, so that its mean tells how much of whom it shows."""
    recipe = replace(OFF, mixup=0.8, cutmix=1.0)
    flat = (LABELS * 100).to(torch.uint8)[:, None, None, None].expand(-1, 1, 40, 30)
    values = torch.tensor([0.0, 100.0, 200.0])
    shares = set()
    for step in range(20):
        images, targets = FinetuneAugment(recipe, network(1), 3, CPU)(flat, LABELS, 0, step)
        shown = (images.mean(dim=(1, 2, 3)) * 0.2 + 0.4) * 255
        torch.testing.assert_close(shown, targets @ values, rtol=0, atol=0.01)
        shares.add(round(float(targets[targets > 0].min()), 4))
    assert len(shares) > 15  # each step draws its own


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_any_number_of_channels(channels: int) -> None:
    images, targets = seen(ALL, channels=channels)
    assert images.shape == (7, channels, 32, 24)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(7))
