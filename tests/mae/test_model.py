"""The network: every shape of image, and an encoder that spends nothing on what it does not see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mae.config import MAEConfig
from mae.layers import DropPath
from mae.masking import gather_patches, num_keep, random_masking
from mae.model import Encoder, MaskedAutoencoder, patchify
from mae.pos_embed import interpolate
from mae.resize import resized


def config(image_size: tuple[int, int] = (16, 16), channels: int = 3) -> MAEConfig:
    return MAEConfig(
        image_size=image_size, patch_size=4, channels=channels, dim=24, depth=2, heads=3, decoder_dim=16,
        decoder_depth=1, decoder_heads=2, mean=(0.5,) * channels, std=(0.25,) * channels,
    )  # fmt: skip


@pytest.fixture
def model() -> MaskedAutoencoder:
    """The cls token's position is zero in every table; here it is not, so that it shows."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(config()).eval()
    model.encoder.pos_embed[:, 0] = torch.linspace(-1, 1, 24)
    model.decoder.pos_embed[:, 0] = torch.linspace(1, -1, 16)
    return model


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("image_size", [(16, 16), (12, 28), (40, 8)])
def test_every_size_and_channel_count_trains(image_size: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(config(image_size, channels))
    length = model.config.num_patches
    keep = num_keep(length, 0.75)
    output = model(torch.randn(3, channels, *image_size), random_masking(torch.rand(3, length), keep))
    assert output.pred.shape == (3, length, 16 * channels)
    assert output.latent.shape == (3, 1 + keep, 24)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_every_norm_has_the_papers_eps(model: MaskedAutoencoder) -> None:
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * (2 + 1) + 2  # two in each block, one at each end
    assert {norm.eps for norm in norms} == {1e-6}


def test_positions_are_fixed(model: MaskedAutoencoder) -> None:
    assert not any("pos_embed" in name for name, _ in model.named_parameters())
    assert {name for name, _ in model.named_buffers()} == {"encoder.pos_embed", "decoder.pos_embed"}


@torch.inference_mode()
def test_the_encoder_is_a_plain_vit_over_the_kept_patches(model: MaskedAutoencoder) -> None:
    """Embed and place every patch, by convolution, and only then take some: what the encoder saves itself."""
    images, ids_keep = torch.randn(2, 3, 16, 16), torch.tensor([[3, 0, 9, 12, 5], [1, 2, 15, 8, 4]])
    encoder = model.encoder
    proj = encoder.patch_embed.proj
    x = torch.conv2d(images, proj.weight, proj.bias, stride=4).flatten(2).mT  # [N, L, D]
    x = gather_patches(x + encoder.pos_embed[:, 1:], ids_keep)  # [N, K, D]
    x = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(2, -1, -1), x], dim=1)
    for block in encoder.blocks:
        x = block(x)
    torch.testing.assert_close(encoder(patchify(images, 4), ids_keep), encoder.norm(x), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_no_ids_means_every_patch_in_order(model: MaskedAutoencoder) -> None:
    patches = patchify(torch.randn(2, 3, 16, 16), 4)
    everything = torch.arange(16).expand(2, -1)
    assert torch.equal(model.encoder(patches), model.encoder(patches, everything))


@torch.inference_mode()
def test_the_order_of_the_kept_patches_does_not_matter(model: MaskedAutoencoder) -> None:
    patches, ids = patchify(torch.randn(1, 3, 16, 16), 4), torch.tensor([[7, 2, 11, 5]])
    order = torch.tensor([2, 0, 3, 1])
    straight, shuffled = model.encoder(patches, ids), model.encoder(patches, ids[:, order])
    torch.testing.assert_close(shuffled[:, 1:], straight[:, 1 + order], rtol=0, atol=1e-5)
    torch.testing.assert_close(shuffled[:, 0], straight[:, 0], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_hidden_pixels_do_not_reach_the_prediction(model: MaskedAutoencoder) -> None:
    images = torch.randn(2, 3, 16, 16)
    masking = random_masking(torch.rand(2, 16), 4)
    repainted = images + 100 * masking.mask.reshape(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    before, after = model(images, masking), model(repainted, masking)
    assert torch.equal(before.latent, after.latent)
    assert torch.equal(before.pred, after.pred)


@torch.inference_mode()
def test_the_decoder_puts_the_mask_token_where_patches_are_hidden(model: MaskedAutoencoder) -> None:
    """Its first block sees, at every hidden place, the same token but for the position."""
    seen: list[Tensor] = []
    handle = model.decoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    masking = random_masking(torch.rand(2, 16), 4)
    latent = model.encoder(patchify(torch.randn(2, 3, 16, 16), 4), masking.ids_keep)
    model.decoder(latent, masking.ids_restore)
    handle.remove()
    x = seen[0] - model.decoder.pos_embed  # [N, 1 + L, E]
    expected = torch.empty_like(x)
    expected[:, 0] = model.decoder.embed(latent[:, 0])
    for image in range(2):
        expected[image, 1:] = model.decoder.mask_token[0, 0]
        expected[image, 1 + masking.ids_keep[image]] = model.decoder.embed(latent[image, 1:])
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


def test_drop_path_keeps_the_mean_and_drops_whole_images() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.3).train()
    y = drop(torch.ones(20_000, 3, 2))
    per_image = y.flatten(1)
    assert torch.equal(per_image, per_image[:, :1].expand(-1, 6))
    assert per_image.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((per_image[:, 0] == 0).float().mean()) == pytest.approx(0.3, abs=0.015)  # 4.6 standard deviations
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)


def test_drop_path_rests_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(8, 3, 2)
    assert torch.equal(DropPath(0.9).eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)


def test_drop_path_grows_with_depth() -> None:
    encoder = Encoder(replace(config(), depth=5), drop_path=0.2)
    rates = [module.rate for module in encoder.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


@torch.inference_mode()
def test_resized_keeps_every_weight_and_interpolates_the_positions(model: MaskedAutoencoder) -> None:
    larger = resized(model, image_size=(24, 32))
    assert larger.config == replace(model.config, image_size=(24, 32))
    before, after = model.state_dict(), larger.state_dict()
    for name, value in before.items():
        expected = interpolate(value, (4, 4), (6, 8)) if name.endswith("pos_embed") else value
        assert torch.equal(after[name], expected), name
    masking = random_masking(torch.rand(2, 48), 12)
    assert larger(torch.randn(2, 3, 24, 32), masking).pred.shape == (2, 48, 48)


@torch.inference_mode()
def test_resized_to_the_same_size_is_the_same_network(model: MaskedAutoencoder) -> None:
    images, masking = torch.randn(2, 3, 16, 16), random_masking(torch.rand(2, 16), 4)
    assert torch.equal(resized(model, image_size=(16, 16))(images, masking).pred, model(images, masking).pred)
