"""Attention by whichever way, and blocks whose activations are computed again."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae.config import MAEConfig
from mae.layers import attend
from mae.masking import Masking, random_masking
from mae.model import MaskedAutoencoder
from mae.resize import resized


@pytest.mark.parametrize("tokens", [2, 17, 65])
def test_attention_in_bf16_has_the_gradients_of_fp32(tokens: int) -> None:
    """As close as bf16 is: its mantissa has 8 bits."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(4, 3, tokens, 16).bfloat16() for _ in range(3))
    upstream = torch.randn(4, 3, tokens, 16)

    def run(dtype: torch.dtype) -> list[Tensor]:
        a, b, c = (x.to(dtype, copy=True).requires_grad_() for x in (q, k, v))
        if dtype == torch.float32:
            with sdpa_kernel(SDPBackend.MATH):
                out = F.scaled_dot_product_attention(a, b, c)
        else:
            out = attend(a, b, c)
            assert out.dtype == torch.bfloat16
        return [x.float() for x in (out.detach(), *torch.autograd.grad(out, (a, b, c), upstream.to(dtype)))]

    for ours, exact in zip(run(torch.bfloat16), run(torch.float32), strict=True):
        assert float((ours - exact).norm() / exact.norm()) < 0.02


def test_attention_under_autocast_stays_in_bf16() -> None:
    q = torch.randn(2, 3, 5, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(q, q, q).dtype == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")


def tiny() -> tuple[MaskedAutoencoder, Tensor, Masking]:
    torch.manual_seed(0)
    config = MAEConfig(
        image_size=(16, 16), patch_size=4, dim=24, depth=3, heads=3, decoder_dim=16, decoder_depth=2, decoder_heads=2
    )
    return MaskedAutoencoder(config), torch.randn(2, 3, 16, 16), random_masking(torch.rand(2, 16), 4)


def test_recomputing_activations_changes_no_gradient_and_keeps_less() -> None:
    gradients, kept = [], []
    for recompute in (False, True):
        model, images, masking = tiny()
        if recompute:
            model.recompute_activations()
        sizes: list[int] = []

        def note(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            loss = model(images, masking).loss
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        kept.append(sum(sizes))
    for with_all, recomputed in zip(*gradients, strict=True):
        assert with_all is not None
        assert recomputed is not None
        assert torch.equal(with_all, recomputed)
    assert kept[1] < 0.5 * kept[0]


def test_another_image_size_than_the_configs_is_what_resized_would_compute() -> None:
    model, _, _ = tiny()
    images, masking = torch.randn(2, 3, 24, 32), random_masking(torch.rand(2, 48), 12)
    with torch.inference_mode():
        direct, larger = model(images, masking), resized(model, image_size=(24, 32))(images, masking)
    assert torch.equal(direct.pred, larger.pred)
    assert torch.equal(direct.loss, larger.loss)
