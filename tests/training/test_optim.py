"""Learning rate over time, and who gets which share of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mae.classifier import Classifier, ClassifierConfig
from mae.config import MAEConfig
from mae.model import MaskedAutoencoder
from training.optim import Schedule, make_adamw, set_lr

NETWORK = MAEConfig(
    image_size=(8, 8), patch_size=4, dim=8, depth=3, heads=2, decoder_dim=8, decoder_depth=2, decoder_heads=2
)


def settings_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Parameter name -> (weight decay, share of the learning rate)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["weight_decay"], group["lr_scale"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_warm_up_then_half_a_cosine() -> None:
    schedule = Schedule(peak_lr=2.0, total_steps=110, warmup_steps=10, min_lr=0.5)
    assert [schedule.lr(step) for step in range(0, 11, 5)] == pytest.approx([0.0, 1.0, 2.0])
    assert schedule.lr(60) == pytest.approx((2.0 + 0.5) / 2)
    assert schedule.lr(85) == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(0.75 * math.pi)))
    assert schedule.lr(110) == pytest.approx(0.5)
    rates = [schedule.lr(step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("warmup", "rates"), [(0, [1.0, 0.5]), (2, [0.0, 0.5])])
def test_a_schedule_may_be_all_or_no_warm_up(warmup: int, rates: list[float]) -> None:
    schedule = Schedule(peak_lr=1.0, total_steps=2, warmup_steps=warmup)
    assert [schedule.lr(0), schedule.lr(1)] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("total", "warmup", "message"),
    [
        (0, 0, "total_steps must be at least 1"),
        (5, 6, "warm-up of 6 steps does not fit 5 steps"),
        (5, -1, "warm-up of -1 steps does not fit 5 steps"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(total: int, warmup: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(peak_lr=1.0, total_steps=total, warmup_steps=warmup)


def test_only_matrices_decay() -> None:
    model = MaskedAutoencoder(NETWORK)
    found = settings_of(model, make_adamw(model, weight_decay=0.05, betas=(0.9, 0.95)))
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, (decay, scale) in found.items():
        spared = name.endswith(("bias", "cls_token", "mask_token")) or "norm" in name
        assert decay == (0.0 if spared else 0.05), name
        assert scale == 1.0, name
    assert found["encoder.patch_embed.proj.weight"] == (0.05, 1.0)


def test_each_layer_learns_slower_than_the_next() -> None:
    model = Classifier(ClassifierConfig(encoder=NETWORK, num_classes=2))
    found = settings_of(model, make_adamw(model, weight_decay=0.0, betas=(0.9, 0.99), layer_decay=0.5, depth=3))
    expected = {
        "encoder.cls_token": 0.5**4,
        "encoder.patch_embed.proj.weight": 0.5**4,
        "encoder.blocks.0.attn.qkv.weight": 0.5**3,
        "encoder.blocks.1.mlp.fc1.bias": 0.5**2,
        "encoder.blocks.2.norm2.weight": 0.5,
        "fc_norm.weight": 1.0,
        "head.weight": 1.0,
        "head.bias": 1.0,
    }
    assert {name: found[name][1] for name in expected} == pytest.approx(expected)


def test_the_norm_after_the_last_block_belongs_to_the_head() -> None:
    model = Classifier(ClassifierConfig(encoder=NETWORK, num_classes=2, pooling="cls"))
    found = settings_of(model, make_adamw(model, weight_decay=0.0, betas=(0.9, 0.99), layer_decay=0.5, depth=3))
    assert found["encoder.norm.weight"][1] == 1.0


def test_set_lr_gives_each_group_its_share() -> None:
    model = Classifier(ClassifierConfig(encoder=NETWORK, num_classes=2))
    optimizer = make_adamw(model, weight_decay=0.05, betas=(0.9, 0.99), layer_decay=0.5, depth=3)
    set_lr(optimizer, 0.8)
    assert {group["lr"] for group in optimizer.param_groups} == {0.05, 0.1, 0.2, 0.4, 0.8}


def test_frozen_parameters_are_left_out() -> None:
    model = MaskedAutoencoder(NETWORK)
    model.encoder.requires_grad_(requires_grad=False)
    optimizer = make_adamw(model, weight_decay=0.05, betas=(0.9, 0.95))
    assert all(name.startswith("decoder.") for name in settings_of(model, optimizer))
