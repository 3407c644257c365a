"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): images in pairs, their labels as shares of both.

Letters: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.augmentations import MixConfig

Box = tuple[int, int, int, int]


class Mixing(NamedTuple):
    """partner: i64 [B]; share: of an image's own part, 0..1; box: (top, left, bottom, right) that CutMix replaces."""

    partner: NDArray[np.int64]
    share: float
    box: Box | None


def draw_mixing(num: int, size: tuple[int, int], config: MixConfig, rng: np.random.Generator) -> Mixing | None:
    """How a batch of `num` images of `size` (height, width) is mixed; None where mixing is off.

    One share for the whole batch, as in the code of both papers. A batch comes in the order of the data set, which is
    often that of its classes, so the partners follow each other on a random circle: nobody's partner is itself, but for
    an image that is alone.
    """
    alphas = [alpha for alpha in (config.mixup, config.cutmix) if alpha > 0]
    if not alphas:
        return None
    cut = config.mixup == 0 or (len(alphas) == 2 and rng.random() < 0.5)
    circle = rng.permutation(num)
    partner = np.empty(num, np.int64)
    partner[circle] = np.roll(circle, -1)
    alpha = config.cutmix if cut else config.mixup
    share = float(rng.beta(alpha, alpha))
    if not cut:
        return Mixing(partner, share, None)
    box = cutmix_box(share, size, rng)
    return Mixing(partner, 1 - (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1]), box)


def cutmix_box(share: float, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Of 1 - share of the area and the image's proportions, about a random centre, cut at the image's edge."""
    height, width = size
    h, w = (int(side * (1 - share) ** 0.5) for side in size)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return max(0, y - h // 2), max(0, x - w // 2), min(height, y + h // 2), min(width, x + w // 2)


def mix_images(images: Tensor, mixing: Mixing) -> Tensor:
    """f32 [B, C, H, W] -> the same, each with its partner's pixels mixed in."""
    partner = torch.from_numpy(mixing.partner).to(images.device, non_blocking=True)
    if mixing.box is None:
        return images.lerp(images[partner], 1 - mixing.share)
    top, left, bottom, right = mixing.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixed


def soft_targets(labels: Tensor, num_classes: int, smoothing: float, mixing: Mixing | None = None) -> Tensor:
    """i64 [B] -> f32 [B, classes] that sum to one: smoothed (Szegedy et al. 2016, sec. 7), then the partner's mixed in.

    smoothing: the share of the target that is spread evenly over all the classes.
    """
    targets = F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes  # [B, classes]
    if mixing is None:
        return targets
    partner = torch.from_numpy(mixing.partner).to(labels.device, non_blocking=True)
    return targets.lerp(targets[partner], 1 - mixing.share)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """f32 scalar: the mean over the batch of -sum(target * log softmax(logits)); both [B, classes]."""
    return F.cross_entropy(logits.float(), targets)
