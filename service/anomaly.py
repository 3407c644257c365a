"""An anomaly map: how far every patch is from what the model makes of it when it is hidden, and its picture.

Letters: H x W pixels, L patches, P patch side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest
from bundle.masking import Masking
from service.cache import Vector
from service.reconstruct import Floats, Original, Picture, beside, patch_error, pixels_of, pred_of

# The colours of the scale at 0, 1/8, ... 1 of its length, in sRGB; straight lines between them. They are our own,
# steps of one length in OKLab (Björn Ottosson, 2020, https://bottosson.github.io/posts/oklab/) along a curve whose
# lightness goes from 0.25 to 0.92, whose hue from 285 through 360 to 460 degrees, and whose chroma from 0.10 to 0.16 in
# the middle and to 0.14: equal differences look equal, and those who see no colours see them too.
SCALE = (
    (31, 21, 78), (72, 33, 100), (117, 45, 111), (161, 58, 110), (201, 76, 96), (228, 109, 80), (245, 147, 68),
    (253, 188, 76), (250, 231, 112),
)  # fmt: skip

_OPACITY = 0.65  # of the colours over the grey picture: enough to tell them, and what they lie on
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class AnomalyMap:
    """`error`: [L], of every patch the mean over the passes that hid it of its mean squared error, in the units of the
    training target. `hidden`: [L], how many passes that were.
    """

    original: Picture
    error: Floats
    hidden: NDArray[np.int64]
    grid: tuple[int, int]

    def heatmap(self, scale_max: float | np.float32) -> Picture:
        """RGB [H, W, 3]: the original in grey under the colours of its patches, which end at the error `scale_max`,
        above 0.
        """
        rgb = as_rgb(self.original)
        grey = (rgb @ _LUMA)[..., None]  # [H, W, 1]
        patch = rgb.shape[0] // self.grid[0]
        part = np.minimum(self.error.astype(np.float64), scale_max) / scale_max  # [L], 0..1
        colours = colour(part.reshape(self.grid))  # [rows, columns, 3]
        laid = colours.repeat(patch, axis=0).repeat(patch, axis=1)  # [H, W, 3]
        return np.rint((1 - _OPACITY) * grey + _OPACITY * laid).astype(np.uint8)

    def side_by_side(self, scale_max: float | np.float32) -> Picture:
        """Original and heat map."""
        return beside([as_rgb(self.original), self.heatmap(scale_max)])


def make_map(values: Sequence[Vector], maskings: Sequence[Masking], manifest: Manifest) -> AnomalyMap:
    """`values`: results of the program "reconstruct" for one image, one per masking; every patch is hidden in some."""
    original = Original.of(pixels_of(values[0], manifest), manifest)
    total = np.zeros(manifest.model.num_patches)
    hidden = np.zeros(manifest.model.num_patches, np.int64)
    for value, masking in zip(values, maskings, strict=True):
        removed = masking.mask == 1  # [L]
        total[removed] += patch_error(pred_of(value, manifest), original.target)[removed]
        hidden += removed
    assert hidden.all()
    return AnomalyMap(original.picture, (total / hidden).astype(np.float32), hidden, manifest.model.grid)


def colour(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """[...], 0..1 of the scale's length -> sRGB [..., 3], 0..255."""
    anchors = np.asarray(SCALE, np.float64)  # [anchors, 3]
    at = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(part, at, channel) for channel in anchors.T], axis=-1)


def as_rgb(picture: Picture) -> Picture:
    """[H, W, 1, 3 or 4] -> [H, W, 3]."""
    return picture.repeat(3, axis=2) if picture.shape[2] == 1 else picture[..., :3]
