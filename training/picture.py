"""Pictures of what the network makes of hidden patches."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mae.masking import Masking
from mae.model import MaskedAutoencoder, Normalize, patchify, unpatchify

_MIN_SIDE = 128  # small images are enlarged to this many pixels, with hard edges
_GAP = 4
_GREY = 0.5


def reconstruct(model: MaskedAutoencoder, images: Tensor, masking: Masking) -> Tensor:
    """Normalised images f32 [N, C, H, W] -> normalised images with the removed patches replaced by the prediction.

    A `normalized` target is un-standardised with the original patch's mean and variance, as in the paper.
    """
    patches = patchify(images, model.config.patch_size)  # [N, L, P*P*C]
    pred = model.decoder(model.encoder(patches, masking.ids_keep), masking.ids_restore).float()
    if model.config.target == "normalized":
        var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        pred = pred * (var + 1e-6).sqrt() + mean
    mixed = torch.where(masking.mask[:, :, None] > 0, pred, patches)
    return unpatchify(mixed, model.config.grid, model.config.patch_size)


def reconstruction_grid(model: MaskedAutoencoder, pixels: Tensor, masking: Masking) -> Image.Image:
    """u8 [N, C, H, W] -> a picture of three columns: original, masked, reconstruction; one row per image."""
    return _tile(reconstruction_rows(model, pixels, masking))


@torch.inference_mode()
def reconstruction_rows(model: MaskedAutoencoder, pixels: Tensor, masking: Masking) -> Tensor:
    """u8 [N, C, H, W] -> u8 [N, 3, C, H, W] on the CPU: original, masked, reconstruction."""
    normalize = Normalize(model.config.mean, model.config.std).to(pixels.device)
    rebuilt = (reconstruct(model, normalize(pixels), masking) - normalize.offset) / normalize.scale
    removed = masking.mask[:, :, None].expand(-1, -1, model.config.patch_dim)
    hidden = unpatchify(removed, model.config.grid, model.config.patch_size) > 0
    masked = torch.where(hidden, torch.full_like(rebuilt, 255 * _GREY), pixels.float())
    rows = torch.stack([pixels.float(), masked, rebuilt], dim=1).clamp(0, 255).round().to(torch.uint8)
    return rows.cpu()


def save_picture(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    picture.save(temporary, format="PNG")
    temporary.replace(path)


def _tile(images: Tensor) -> Image.Image:
    """u8 [rows, columns, C, H, W] -> one picture; channel counts other than 1 and 3 show their first three or first."""
    rows, columns, channels, height, width = images.shape
    images = images[:, :, :3] if channels >= 3 else images[:, :, :1].expand(-1, -1, 3, -1, -1)
    zoom = max(1, -(-_MIN_SIDE // min(height, width)))
    cell_h, cell_w = height * zoom, width * zoom
    sheet = Image.new("RGB", (columns * (cell_w + _GAP) - _GAP, rows * (cell_h + _GAP) - _GAP), "white")
    for r in range(rows):
        for c in range(columns):
            cell = Image.fromarray(images[r, c].permute(1, 2, 0).contiguous().numpy())
            sheet.paste(
                cell.resize((cell_w, cell_h), Image.Resampling.NEAREST), (c * (cell_w + _GAP), r * (cell_h + _GAP))
            )
    return sheet
