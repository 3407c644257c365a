"""From the decoder's patches to pictures.

Letters: H x W pixels, C channels, L patches, P patch side. Pictures are uint8 [H, W, C]; patches lie row by row, each
flattened (row, column, channel).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bundle.decode import MODES
from bundle.manifest import Manifest
from service.cache import Vector

_GREY = 127  # what a removed patch looks like
_GAP = 4  # pixels between pictures side by side
_EPS = 1e-6  # added to a patch's variance in training (He et al. 2021, normalized targets)

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Pictures:
    """`error`: [L], the mean squared error of every patch in the units of the training target, as in the loss."""

    original: Picture
    masked: Picture
    reconstruction: Picture
    error: Floats

    def side_by_side(self) -> Picture:
        """Original, masked, reconstruction, with white gaps between."""
        height, _, channels = self.original.shape
        gap = np.full((height, _GAP, channels), 255, np.uint8)
        return np.concatenate([self.original, gap, self.masked, gap, self.reconstruction], axis=1)


def make_pictures(value: Vector, mask: Floats, manifest: Manifest) -> Pictures:
    """`value`: a result of the program "reconstruct", the pixels, then the decoder's patches. mask: [L], 1 = removed.

    Visible patches are the original's, as they were given to the model; only removed ones are predicted.

    With the pixel target "normalized" the decoder says how a patch looks relative to its own mean and variance, which
    it does not predict: those of the original are used, also for removed patches, as in the paper's figures.
    """
    model, num_patches = manifest.model, manifest.model.num_patches
    pixels = value[: num_patches * model.patch_dim].reshape(*model.image_size, model.channels)  # [H, W, C], 0..255
    pred = value[num_patches * model.patch_dim :].reshape(num_patches, model.patch_dim)  # [L, P*P*C]
    original = patchify(pixels, model.patch_size)  # [L, P*P*C], 0..255
    scale, shift = _normalisation(manifest)
    visible = (original - shift) / scale  # [L, P*P*C], what the graphs see
    if manifest.pixel_target == "normalized":
        mean = visible.mean(axis=1, keepdims=True)  # [L, 1]
        std = np.sqrt(visible.var(axis=1, ddof=1, keepdims=True) + _EPS)  # [L, 1]
    else:
        mean, std = np.float32(0), np.float32(1)
    error = np.square(pred - (visible - mean) / std).mean(axis=1)  # [L]
    predicted = (pred * std + mean) * scale + shift
    removed = mask[:, None] == 1  # [L, 1]

    def picture(patches: Floats) -> Picture:
        image = unpatchify(patches, model.grid, model.patch_size)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)

    return Pictures(
        original=picture(original),
        masked=picture(np.where(removed, np.float32(_GREY), original)),
        reconstruction=picture(np.where(removed, predicted, original)),
        error=error.astype(np.float32),
    )


def encode_png(picture: Picture) -> bytes:
    mode: Literal["L", "RGB", "RGBA"] = MODES[picture.shape[2]]  # type: ignore[assignment]
    image = Image.fromarray(picture[..., 0] if mode == "L" else picture)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)  # these are small, and made for every request
    return out.getvalue()


def patchify(image: Floats, patch: int) -> Floats:
    """[H, W, C] -> [L, P*P*C]."""
    height, width, channels = image.shape
    x = image.reshape(height // patch, patch, width // patch, patch, channels)  # [h, P, w, P, C]
    return x.transpose(0, 2, 1, 3, 4).reshape(-1, patch * patch * channels)  # [h*w, P*P*C]


def unpatchify(patches: Floats, grid: tuple[int, int], patch: int) -> Floats:
    """[L, P*P*C] -> [H, W, C], the inverse of `patchify`. grid: (rows, columns)."""
    rows, columns = grid
    x = patches.reshape(rows, columns, patch, patch, -1)  # [h, w, P, P, C]
    return x.transpose(0, 2, 1, 3, 4).reshape(rows * patch, columns * patch, -1)  # [H, W, C]


def _normalisation(manifest: Manifest) -> tuple[Floats, Floats]:
    """Scale and shift from the graphs' normalised values to 0..255, for a flattened patch: [P*P*C] each."""
    repeat = manifest.model.patch_size**2
    std = np.tile(np.asarray(manifest.preprocess.std, np.float32), repeat)
    mean = np.tile(np.asarray(manifest.preprocess.mean, np.float32), repeat)
    return std * 255, mean * 255
