"""The count of a step's arithmetic, against the operations that torch sees itself do."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae.config import MAEConfig, preset
from mae.masking import num_keep, random_masking
from mae.model import MaskedAutoencoder
from training.flops import finetune_flops, measured_peak, pretrain_flops

TINY = MAEConfig(
    image_size=(32, 48), patch_size=8, dim=48, depth=3, heads=3, decoder_dim=32, decoder_depth=2, decoder_heads=2
)


def test_pretraining_counts_what_torch_counts() -> None:
    """Forward exactly; backward torch leaves out the gradient of the pixels, which nobody needs."""
    model, batch = MaskedAutoencoder(TINY), 5
    keep = num_keep(TINY.num_patches, 0.75)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        loss = model(torch.randn(batch, 3, 32, 48), random_masking(torch.rand(batch, TINY.num_patches), keep)).loss
        forward = counter.get_total_flops()
        loss.backward()
    ours = pretrain_flops(TINY, keep, TINY.num_patches)
    assert forward == batch * ours / 3
    pixels_gradient = batch * 2 * keep * TINY.patch_dim * TINY.dim
    assert counter.get_total_flops() == batch * ours - pixels_gradient


def test_the_published_count_of_the_papers_networks() -> None:
    """For 224 pixels at 75 % masking, and the count of ViT-B/16's forward pass, 17.6 GMAC (Touvron et al. 2021)."""
    base = preset("base")
    assert pretrain_flops(base, 49, 196) == pytest.approx(58.5e9, rel=0.01)
    assert pretrain_flops(preset("large"), 49, 196) == pytest.approx(124e9, rel=0.01)
    assert pretrain_flops(preset("huge"), 64, 256) == pytest.approx(291e9, rel=0.01)
    assert finetune_flops(base) == pytest.approx(3 * 2 * 17.6e9, rel=0.01)


def test_the_peak_is_a_rate_that_a_product_reaches() -> None:
    assert 1e9 < measured_peak(torch.device("cpu"), torch.float32) < 1e14
