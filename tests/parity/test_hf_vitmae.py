"""The same weights in Hugging Face's ViTMAE give the same numbers.

Copying, rather than converting a file, keeps this test to the mathematics. Three things of theirs have to be set:
positions, which a model built from scratch leaves at zero and frozen; LayerNorm's eps, 1e-12 by default; and the noise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mae.config import MAEConfig, Target
from mae.layers import NORM_EPS
from mae.masking import num_keep, random_masking
from mae.model import MAEOutput, MaskedAutoencoder

TOLERANCE = 1e-5
NUM_IMAGES = 3

# our name -> theirs, prefixes first; what neither table names is spelt alike
TOP = {
    "encoder.pos_embed": "vit.embeddings.position_embeddings",
    "encoder.cls_token": "vit.embeddings.cls_token",
    "encoder.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "encoder.blocks": "vit.layers",
    "encoder.norm": "vit.layernorm",
    "decoder.embed": "decoder.decoder_embed",
    "decoder.pos_embed": "decoder.decoder_pos_embed",
    "decoder.blocks": "decoder.decoder_layers",
    "decoder.norm": "decoder.decoder_norm",
    "decoder.pred": "decoder.decoder_pred",
}
BLOCK = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj"}


def config(target: Target) -> MAEConfig:
    return MAEConfig(
        image_size=(32, 32), patch_size=8, dim=48, depth=3, heads=4, mlp_ratio=3.0, decoder_dim=32, decoder_depth=2,
        decoder_heads=2, target=target,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["normalized", "raw"])
def ours(request: pytest.FixtureRequest) -> MaskedAutoencoder:
    """Every parameter drawn at random: a bias of zero or a norm of one would hide a mistake."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(config(request.param)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for table in (model.encoder.pos_embed, model.decoder.pos_embed):
            table[:, 0] = 0.1 * torch.randn(table.shape[2])
    return model


def theirs(model: MaskedAutoencoder, mask_ratio: float) -> ViTMAEForPreTraining:
    c = model.config
    network = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=c.dim, num_hidden_layers=c.depth, num_attention_heads=c.heads,
            intermediate_size=int(c.dim * c.mlp_ratio), image_size=c.image_size[0], patch_size=c.patch_size,
            num_channels=c.channels, decoder_hidden_size=c.decoder_dim, decoder_num_hidden_layers=c.decoder_depth,
            decoder_num_attention_heads=c.decoder_heads, decoder_intermediate_size=int(c.decoder_dim * c.mlp_ratio),
            mask_ratio=mask_ratio, norm_pix_loss=c.target == "normalized", layer_norm_eps=NORM_EPS,
        )
    )  # fmt: skip
    network.load_state_dict(dict(renamed(model)))  # strict: every tensor of theirs is given, and none of ours is left
    return network.eval()


def renamed(model: MaskedAutoencoder) -> Iterator[tuple[str, Tensor]]:
    """Our state dict under their names, the fused qkv cut into its three."""
    for name, tensor in model.state_dict().items():
        key = next((theirs + name.removeprefix(own) for own, theirs in TOP.items() if name.startswith(own)), name)
        for own, their in BLOCK.items():
            key = key.replace(f".{own}.", f".{their}.")
        if match := re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", key):
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{match[1]}.attention.{letter}_proj.{match[2]}", part
        else:
            yield key, tensor


@torch.inference_mode()
def both(model: MaskedAutoencoder, mask_ratio: float) -> tuple[MAEOutput, MAEOutput]:
    """(ours, theirs) for the same images and the same noise."""
    generator = torch.Generator().manual_seed(1)
    length = model.config.num_patches
    images = torch.randn(NUM_IMAGES, model.config.channels, *model.config.image_size, generator=generator)
    noise = torch.rand(NUM_IMAGES, length, generator=generator)
    masking = random_masking(noise, num_keep(length, mask_ratio))
    network = theirs(model, mask_ratio)
    output = network(images, noise=noise)
    latent = network.vit(images, noise=noise)
    torch.testing.assert_close(latent.ids_restore, masking.ids_restore, rtol=0, atol=0)
    torch.testing.assert_close(latent.mask, masking.mask, rtol=0, atol=0)
    return model(images, masking), MAEOutput(output.loss, output.logits, latent.last_hidden_state)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


def test_three_quarters_removed(ours: MaskedAutoencoder) -> None:
    mine, reference = both(ours, 0.75)
    length = ours.config.num_patches
    assert mine.latent.shape == (NUM_IMAGES, 1 + length // 4, ours.config.dim)
    assert_close(mine.latent, reference.latent)
    assert_close(mine.pred, reference.pred)
    assert_close(mine.loss, reference.loss)


def test_nothing_removed(ours: MaskedAutoencoder) -> None:
    """Their loss is 0/0 where nothing is removed; ours is then the mean over all patches."""
    mine, reference = both(ours, 0.0)
    assert_close(mine.latent, reference.latent)
    assert_close(mine.pred, reference.pred)
    assert reference.loss.isnan()
    assert mine.loss.isfinite()
