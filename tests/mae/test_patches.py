"""Cutting images into patches and back, and what counts as a patch's target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae.config import Loss, MAEConfig, Target
from mae.model import MaskedAutoencoder, Normalize, patchify, standardize_patches, unpatchify


@given(
    n=st.integers(1, 3), c=st.sampled_from([1, 3, 4, 6]), rows=st.integers(1, 4), cols=st.integers(1, 4),
    p=st.sampled_from([1, 2, 4]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_unpatchify_is_the_inverse(n: int, c: int, rows: int, cols: int, p: int) -> None:
    images = torch.randn(n, c, rows * p, cols * p)
    patches = patchify(images, p)
    assert patches.shape == (n, rows * cols, p * p * c)
    assert torch.equal(unpatchify(patches, (rows, cols), p), images)


def test_patches_run_row_by_row_and_hold_their_channels_last() -> None:
    n, c, height, width, p = 2, 3, 8, 12, 4
    images = torch.arange(n * c * height * width, dtype=torch.float32).reshape(n, c, height, width)
    expected = torch.empty(n, 6, p * p * c)
    for image in range(n):
        for patch in range(6):
            top, left = patch // 3 * p, patch % 3 * p
            values = [images[image, k, top + y, left + x] for y in range(p) for x in range(p) for k in range(c)]
            expected[image, patch] = torch.stack(values)
    assert torch.equal(patchify(images, p), expected)


def test_images_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 8x10 do not divide into patches of 4x4"):
        patchify(torch.zeros(1, 3, 8, 10), 4)


def test_standardized_patches_use_the_unbiased_variance() -> None:
    patches = torch.randn(2, 5, 12) * 3 + 1
    x = patches.numpy().astype(np.float64)
    expected = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(standardize_patches(patches).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert (standardize_patches(torch.full((1, 1, 12), 7.0)) == 0).all()


@pytest.mark.parametrize("target", ["raw", "normalized"])
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_the_loss_counts_the_removed_patches_alone(target: Target, loss: Loss) -> None:
    config = MAEConfig(
        image_size=(8, 8), patch_size=4, dim=8, depth=1, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2,
        target=target, loss=loss,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    patches, pred = torch.randn(2, 2, 4, 48, generator=generator)
    mask = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    x, guess = patches.numpy().astype(np.float64), pred.numpy().astype(np.float64)
    if target == "normalized":
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
    error = (guess - x) ** 2 if loss == "mse" else np.abs(guess - x)
    removed = [error[0, 0].mean(), error[0, 3].mean(), error[1, 1].mean()]
    model = MaskedAutoencoder(config)
    assert float(model.loss(patches, pred, mask)) == pytest.approx(np.mean(removed), rel=1e-5)
    assert float(model.loss(patches, pred, torch.zeros_like(mask))) == pytest.approx(error.mean(), rel=1e-5)


def test_pixels_are_normalised_per_channel() -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = (pixels.numpy() / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    np.testing.assert_allclose(Normalize(mean, std)(pixels).numpy(), expected, atol=1e-6)
