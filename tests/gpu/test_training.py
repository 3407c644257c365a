"""Pre-training on a GPU: the same numbers as on the CPU, from every feed, compiled and not, stopped and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mae.config import MAEConfig
from mae.model import MaskedAutoencoder
from mae.weights import load_mae
from training.compute import CompileName
from training.device import autocast
from training.feed import AheadFeed, Plan, ResidentFeed, open_feed
from training.flops import measured_peak, peak_flops
from training.objective import MaskedObjective, compiled
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain

CONFIG = MAEConfig(
    image_size=(32, 32), patch_size=8, dim=96, depth=2, heads=3, decoder_dim=64, decoder_depth=1, decoder_heads=2
)


def inputs(device: torch.device) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (64, 3, 40, 36), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([3.0, 5.0, 20.0, 24.0]).expand(64, 4)
    flip = torch.rand(64, generator=generator) < 0.5
    noise = torch.rand(64, 16, generator=generator)
    return tuple(x.to(device) for x in (pixels, boxes, flip, noise))


def test_the_loss_and_its_gradients_are_the_cpus(device: torch.device) -> None:
    results = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        objective = MaskedObjective(MaskedAutoencoder(CONFIG), autocast(where, "fp32")).to(where)
        loss = objective(*inputs(where), (32, 32), 4)
        gradients = torch.autograd.grad(loss, list(objective.parameters()))
        results.append([x.detach().cpu() for x in (loss, *gradients)])
    for ours, cpus in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, cpus, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("choice", ["on", "graphs"])
def test_compiled_it_has_the_same_loss_and_gradients(choice: CompileName, device: torch.device) -> None:
    torch.manual_seed(0)
    objective = MaskedObjective(MaskedAutoencoder(CONFIG), autocast(device, "fp32")).to(device)
    results = []
    for module in (objective, compiled(objective, choice, device, sharded=False)):
        for _ in range(3):  # CUDA graphs are recorded at the second call
            loss = module(*inputs(device), (32, 32), 4)
            gradients = torch.autograd.grad(loss, list(objective.parameters()))
        results.append([x.detach().clone() for x in (loss, *gradients)])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-5)


def test_every_feed_gives_the_plans_pixels(device: torch.device, noise_set: PackedDataset) -> None:
    plan = Plan(num_images=len(noise_set), batch_size=256, seed=0)
    for kind, feed in (
        (ResidentFeed, open_feed(noise_set, plan, device)),
        (AheadFeed, open_feed(noise_set, plan, device, "mapped")),
    ):
        assert isinstance(feed, kind)
        for step in (*range(40), 7):
            pixels = feed.get(step).permute(0, 2, 3, 1)
            assert pixels.device == device
            assert np.array_equal(pixels.cpu().numpy(), noise_set.pixels(plan.ids(step)))
        feed.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("choice", ["off", "on"])
def test_a_run_ends_with_finite_weights_and_says_how_fast_it_was(
    choice: CompileName, noise_set: PackedDataset, tmp_path: Path
) -> None:
    config = PretrainConfig(
        data=str(noise_set.folder), out=tmp_path / "run", recipe="px32", depth=2, patch_size=8, batch_size=256,
        epochs=4, blr=2e-3, compile=choice, device="cuda",
    )  # fmt: skip
    pretrain(config)
    pretrain(replace(config, resume=True))
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.isfinite(losses).all()
    assert all(parameter.isfinite().all() for parameter in load_mae(config.out).parameters())
    assert all(0 <= row["mfu"] < 1 for row in rows if "mfu" in row)


def test_the_data_sheets_peak_is_above_what_a_product_reaches(device: torch.device) -> None:
    assert 0.4 < measured_peak(device, torch.bfloat16) / peak_flops(device, torch.bfloat16) <= 1.05
