"""Reconstructions: what was seen stays, what was hidden is painted in the units of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mae.config import MAEConfig, Target
from mae.masking import random_masking
from mae.model import MaskedAutoencoder, Normalize, patchify
from training.picture import reconstruct, reconstruction_grid, save_picture


class Oracle(nn.Module):
    """A decoder that knows the answer."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, _tokens: Tensor, _ids_restore: Tensor) -> Tensor:
        return self.answer


def build(target: Target, channels: int = 3) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(
        MAEConfig(
            image_size=(16, 24), patch_size=8, channels=channels, dim=8, depth=1, heads=2, decoder_dim=8,
            decoder_depth=1, decoder_heads=2, target=target, mean=(0.4,) * channels, std=(0.2,) * channels,
        )
    ).eval()  # fmt: skip


def photos(channels: int = 3) -> Tensor:
    """u8 [2, C, 16, 24]."""
    return torch.randint(0, 256, (2, channels, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def masks() -> Tensor:
    """Noise [2, L] under which three of the six patches stay."""
    return torch.tensor([[0, 1, 2, 3, 4, 5], [5, 0, 4, 1, 3, 2]]).float()


@pytest.mark.parametrize("target", ["raw", "normalized"])
def test_a_perfect_prediction_is_the_image(target: Target) -> None:
    model = build(target)
    images = Normalize(model.config.mean, model.config.std)(photos())
    model.decoder = Oracle(model.target(patchify(images, 8)))  # type: ignore[assignment]
    torch.testing.assert_close(reconstruct(model, images, random_masking(masks(), 3)), images, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_only_what_was_hidden_is_painted() -> None:
    model = build("raw")
    images = torch.randn(2, 3, 16, 24)
    masking = random_masking(masks(), 3)
    rebuilt = patchify(reconstruct(model, images, masking), 8)
    pred = model(images, masking).pred
    expected = torch.where(masking.mask[:, :, None] > 0, pred, patchify(images, 8))
    torch.testing.assert_close(rebuilt, expected)


def columns(picture: Image.Image, zoom: int = 8, gap: int = 4) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """[rows, 3, H, W, 3]: the cells of the sheet, at their own size again."""
    pixels = np.asarray(picture)
    height, width = 16 * zoom, 24 * zoom
    cells = [
        [pixels[r * (height + gap) :, c * (width + gap) :][:height:zoom, :width:zoom] for c in range(3)]
        for r in range(2)
    ]
    return np.array(cells)


def test_the_sheet_shows_original_masked_and_reconstruction() -> None:
    model, pixels = build("normalized"), photos()
    masking = random_masking(masks(), 3)
    picture = reconstruction_grid(model, pixels, masking)
    assert picture.size == (3 * 24 * 8 + 2 * 4, 2 * 16 * 8 + 4)
    cells = columns(picture)
    original = pixels.permute(0, 2, 3, 1).numpy()
    hidden = masking.mask.reshape(2, 2, 3).repeat_interleave(8, 1).repeat_interleave(8, 2).numpy() > 0  # [N, H, W]
    assert np.array_equal(cells[:, 0], original)
    assert np.array_equal(cells[:, 1][~hidden], original[~hidden])
    assert (cells[:, 1][hidden] == 128).all()
    assert np.array_equal(cells[:, 2][~hidden], original[~hidden])
    assert not np.array_equal(cells[:, 2][hidden], original[hidden])


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channel_counts_show_their_first(channels: int) -> None:
    pixels = photos(channels)
    cells = columns(reconstruction_grid(build("raw", channels), pixels, random_masking(masks(), 3)))
    shown = pixels[:, :3] if channels >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    assert np.array_equal(cells[:, 0], shown.permute(0, 2, 3, 1).numpy())


def test_a_picture_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.png"
    save_picture(Image.new("RGB", (5, 6), "red"), path)
    with Image.open(path) as picture:
        assert picture.size == (5, 6)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
