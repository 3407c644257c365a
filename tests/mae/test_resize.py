"""Weights for another image or patch size: what the network computes stays, as far as the pixels allow it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.classifier import Classifier, ClassifierConfig
from mae.config import MAEConfig
from mae.model import MaskedAutoencoder, patchify, unpatchify
from mae.pos_embed import sincos_2d
from mae.pretrained import PretrainedEncoder, config_of
from mae.resize import Resizable, resize_patch_embed, resize_pred, resized

CONFIG = MAEConfig(
    image_size=(32, 32), patch_size=8, dim=48, depth=1, heads=3, decoder_dim=32, decoder_depth=1, decoder_heads=2
)


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)


def smooth(n: int, size: int) -> Tensor:
    """Pictures with detail of some 16 pixels, which survive being scaled down."""
    generator = torch.Generator().manual_seed(0)
    return resize_images(torch.randn(n, 3, size // 16, size // 16, generator=generator), (size, size))


def networks() -> list[MaskedAutoencoder | PretrainedEncoder | Classifier]:
    torch.manual_seed(0)
    classifier = ClassifierConfig(encoder=CONFIG, num_classes=3)
    return [MaskedAutoencoder(CONFIG), PretrainedEncoder(CONFIG), Classifier(classifier)]


@pytest.mark.parametrize("network", networks(), ids=lambda n: type(n).__name__)
def test_the_same_sizes_change_nothing(network: Resizable) -> None:
    copy = resized(network, image_size=(32, 32), patch_size=8)
    assert copy is not network
    assert not copy.training
    assert copy.config == network.config
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in copy.state_dict().items())


@pytest.mark.parametrize("network", networks(), ids=lambda n: type(n).__name__)
def test_every_kind_of_network_takes_another_image_and_another_patch(network: Resizable) -> None:
    copy = resized(network, image_size=(24, 48), patch_size=12)
    assert type(copy) is type(network)
    config = config_of(copy)
    assert (config.image_size, config.patch_size, config.grid) == ((24, 48), 12, (2, 4))
    changed = {"encoder.pos_embed", "encoder.patch_embed.proj.weight", "decoder.pos_embed", "decoder.pred.weight"}
    for name, tensor in copy.state_dict().items():
        if name not in changed | {"decoder.pred.bias"}:
            assert torch.equal(tensor, network.state_dict()[name])
    assert config_of(network) == CONFIG


def test_a_patch_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.image_size \(32, 32\) must be multiples of patch_size 12"):
        resized(MaskedAutoencoder(CONFIG), patch_size=12)


def test_positions_keep_their_place_in_the_picture_in_encoder_and_decoder() -> None:
    """Twice the grid: patch i lies at (i + 0.5) / 2 - 0.5 of the old. A table made anew would put it at i."""
    large = MAEConfig(image_size=(64, 64), patch_size=8, dim=48, depth=1, heads=3, decoder_dim=32, decoder_depth=1)
    copy = resized(MaskedAutoencoder(large), image_size=(128, 128))
    for table, dim in ((copy.encoder.pos_embed, 48), (copy.decoder.pos_embed, 32)):
        places = (torch.arange(16, dtype=torch.float64) + 0.5) / 2 - 0.5
        slowest = 10000.0 ** -((dim // 4 - 1) / (dim // 4))
        column = table[0, 1:].reshape(16, 16, dim)[5, :, dim // 4 - 1]  # sin of the column at the lowest frequency
        row = table[0, 1:].reshape(16, 16, dim)[:, 5, 3 * dim // 4 - 1]
        expected = (places * slowest).sin().float()
        for found in (column, row):
            torch.testing.assert_close(found[3:13], expected[3:13], rtol=0, atol=5e-5)
            assert (found - sincos_2d(dim, (16, 16))[0, 1:17, dim // 4 - 1]).abs().max() > 10 * 5e-5


def test_an_enlarged_embedding_gives_an_enlarged_patch_the_same_value() -> None:
    """Exactly, for any patch: enlarging loses nothing, so the pseudo-inverse undoes it."""
    torch.manual_seed(0)
    weight, patches = torch.randn(5, 3, 4, 4), torch.randn(7, 3, 4, 4)
    enlarged = resize_patch_embed(weight, 10)
    assert enlarged.shape == (5, 3, 10, 10)
    before = F.conv2d(patches, weight).flatten(1)
    after = F.conv2d(resize_images(patches, (10, 10)), enlarged).flatten(1)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    plain = F.conv2d(resize_images(patches, (10, 10)), resize_images(weight, (10, 10))).flatten(1)
    assert (plain - before).abs().max() > 1  # what resizing the weight like a picture would give


def test_a_reduced_embedding_is_the_least_squares_solution() -> None:
    """Of B^T w' = w, with B built here by resizing one pixel after another."""
    torch.manual_seed(0)
    weight = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    columns = []
    for i in range(36):
        pixel = torch.zeros(36, dtype=torch.float64)
        pixel[i] = 1
        columns.append(resize_images(pixel.reshape(1, 1, 6, 6), (4, 4)).flatten())
    matrix = torch.stack(columns, dim=1)  # [16, 36]
    expected = torch.linalg.lstsq(matrix.T, weight.reshape(2, 36).T).solution.T
    torch.testing.assert_close(resize_patch_embed(weight, 4).reshape(2, 16), expected)


@pytest.mark.parametrize(("size", "patch"), [((64, 64), 16), ((16, 16), 4)])
def test_a_picture_of_another_size_is_embedded_alike(size: tuple[int, int], patch: int) -> None:
    network = MaskedAutoencoder(CONFIG)
    copy = resized(network, image_size=size, patch_size=patch)
    images = smooth(6, 32)
    before, after = patchify(images, 8), patchify(resize_images(images, size), patch)
    with torch.inference_mode():
        embedded = F.cosine_similarity(network.encoder.patch_embed(before), copy.encoder.patch_embed(after), dim=-1)
        latent = F.cosine_similarity(network.encoder(before), copy.encoder(after), dim=-1)
    assert embedded.mean() > 0.985  # random weights look at detail that a smaller patch has lost
    assert embedded.min() > 0.95
    assert latent.min() > 0.98


@pytest.mark.parametrize("patch", [4, 16])
def test_the_decoder_predicts_the_resized_patch(patch: int) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(8 * 8 * 3, 5), torch.randn(8 * 8 * 3), torch.randn(6, 5)
    before = unpatchify(F.linear(x, weight, bias)[:, None], (1, 1), 8)  # [6, 3, 8, 8]
    after = unpatchify(F.linear(x, resize_pred(weight, 3, patch), resize_pred(bias, 3, patch))[:, None], (1, 1), patch)
    torch.testing.assert_close(after, resize_images(before, (patch, patch)), rtol=0, atol=1e-5)
