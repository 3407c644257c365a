"""From the decoder's patches to pictures.

Letters: H x W pixels, C channels, L patches, P patch side. Pictures are uint8 [H, W, C]; patches lie row by row, each
flattened (row, column, channel).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
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
class Original:
    """A picture as the network was given it and as the loss measures it, patch by patch.

    With the pixel target "normalized" the decoder says how a patch looks relative to its own `mean` and `std`, which it
    does not predict; with "raw" they are 0 and 1.
    """

    picture: Picture
    patches: Floats  # [L, P*P*C], 0..255
    target: Floats  # [L, P*P*C]
    mean: Floats  # [L, 1]
    std: Floats  # [L, 1]

    @classmethod
    def of(cls, pixels: Floats, manifest: Manifest) -> Original:
        """pixels: [H, W, C], 0..255."""
        patches = patchify(pixels, manifest.model.patch_size)
        scale, shift = _normalisation(manifest)
        visible = (patches - shift) / scale  # [L, P*P*C], what the graphs see
        if manifest.pixel_target == "normalized":
            mean = visible.mean(axis=1, keepdims=True)
            std = np.sqrt(visible.var(axis=1, ddof=1, keepdims=True) + _EPS)
        else:
            mean, std = np.zeros((len(visible), 1), np.float32), np.ones((len(visible), 1), np.float32)
        return cls(_picture(patches, manifest), patches, (visible - mean) / std, mean, std)


@dataclass(frozen=True, eq=False)
class Pictures:
    """`error`: [L], the mean squared error of every patch in the units of the training target, as in the loss."""

    original: Picture
    masked: Picture
    reconstruction: Picture
    error: Floats

    def side_by_side(self) -> Picture:
        """Original, masked, reconstruction."""
        return beside([self.original, self.masked, self.reconstruction])


def make_pictures(value: Vector, mask: Floats, manifest: Manifest) -> Pictures:
    """`value`: a result of the program "reconstruct". mask: [L], 1 = removed.

    Visible patches are the original's, as they were given to the model; only removed ones are predicted. Where the mean
    and the variance of a patch are not predicted, those of the original are used, also for removed patches, as in the
    paper's figures.
    """
    original, pred = Original.of(pixels_of(value, manifest), manifest), pred_of(value, manifest)
    scale, shift = _normalisation(manifest)
    predicted = (pred * original.std + original.mean) * scale + shift
    removed = mask[:, None] == 1  # [L, 1]
    return Pictures(
        original=original.picture,
        masked=_picture(np.where(removed, np.float32(_GREY), original.patches), manifest),
        reconstruction=_picture(np.where(removed, predicted, original.patches), manifest),
        error=patch_error(pred, original.target),
    )


def pixels_of(value: Vector, manifest: Manifest) -> Floats:
    """[H, W, C], 0..255: the first part of a result of the program "reconstruct"."""
    model = manifest.model
    return value[: model.num_patches * model.patch_dim].reshape(*model.image_size, model.channels)


def pred_of(value: Vector, manifest: Manifest) -> Floats:
    """[L, P*P*C]: the second part, the decoder's patches."""
    model = manifest.model
    return value[model.num_patches * model.patch_dim :].reshape(model.num_patches, model.patch_dim)


def patch_error(pred: Floats, target: Floats) -> Floats:
    """[L, P*P*C] twice -> [L], the mean of the squares."""
    error: Floats = np.square(pred - target).mean(axis=1, dtype=np.float32)
    return error


def beside(pictures: Sequence[Picture]) -> Picture:
    """One picture of several of one size, with white gaps between."""
    height, _, channels = pictures[0].shape
    gap = np.full((height, _GAP, channels), 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=1)


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


def _picture(patches: Floats, manifest: Manifest) -> Picture:
    """[L, P*P*C], about 0..255 -> [H, W, C]."""
    image = unpatchify(patches, manifest.model.grid, manifest.model.patch_size)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _normalisation(manifest: Manifest) -> tuple[Floats, Floats]:
    """Scale and shift from the graphs' normalised values to 0..255, for a flattened patch: [P*P*C] each."""
    repeat = manifest.model.patch_size**2
    std = np.tile(np.asarray(manifest.preprocess.std, np.float32), repeat)
    mean = np.tile(np.asarray(manifest.preprocess.mean, np.float32), repeat)
    return std * 255, mean * 255
