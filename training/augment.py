"""Random resized crop, flip and erasing for a whole batch on its device; the crop is two batched matrix products.

A separable resize is linear in each axis, so crop, antialiased bicubic resize and flip of one image are one pair of
matrices: out = A_y x A_x^T. Letters: B images, C channels, H x W pixels in, h x w pixels out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.augmentations import CropConfig

_BICUBIC_A = -0.5  # Keys 1981; Pillow's choice
_TRIES = 10


ERASING_BOX = CropConfig(scale=(0.02, 1 / 3), ratio=(0.3, 10 / 3))  # timm's; Zhong et al. 2020 erase up to 0.4


def random_resized_crop(
    pixels: Tensor, size: tuple[int, int], config: CropConfig, generator: torch.Generator
) -> Tensor:
    """u8 [B, C, H, W] -> f32 [B, C, h, w] in 0..255: a random crop of each image at `size`, perhaps flipped."""
    boxes = random_boxes(pixels.shape[0], (pixels.shape[2], pixels.shape[3]), config, generator)  # [B, 4]
    flip = torch.rand(pixels.shape[0], generator=generator, device=generator.device) < config.flip  # [B]
    return crop_and_resize(pixels, boxes, flip, size)


def random_boxes(num: int, image_size: tuple[int, int], config: CropConfig, generator: torch.Generator) -> Tensor:
    """f32 [B, 4] of (top, left, height, width) in pixels; the first of ten draws that fits, else the whole image."""
    height, width = image_size
    uniform = torch.rand(4, num, _TRIES, generator=generator, device=generator.device)
    area = height * width * (config.scale[0] + (config.scale[1] - config.scale[0]) * uniform[0])
    low, high = torch.tensor(config.ratio).log().tolist()
    ratio = (low + (high - low) * uniform[1]).exp()
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()  # [B, tries]
    fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
    top = (uniform[2] * (height - h + 1)).floor()
    left = (uniform[3] * (width - w + 1)).floor()
    first = fits.float().argmax(dim=1, keepdim=True)  # [B, 1]
    boxes = torch.stack([top, left, h, w], dim=2).gather(1, first[:, :, None].expand(-1, -1, 4))[:, 0]  # [B, 4]
    # Filled on the device: a tensor made on the host would have to be copied there, and the host to wait.
    whole = torch.cat([boxes.new_full((1,), side) for side in (0, 0, height, width)])
    return torch.where(fits.any(dim=1, keepdim=True), boxes, whole)


def random_erasing(images: Tensor, prob: float, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """f32 [B, C, H, W] of normalised pixels -> the same, a random box of some images replaced by unit noise.

    prob: of an image to be chosen; rng chooses, on the host, so that only those cost anything (Zhong et al. 2020).
    """
    chosen = np.flatnonzero(rng.random(len(images)) < prob)  # [n]
    if not len(chosen):
        return images
    rows = torch.from_numpy(chosen).to(images.device, non_blocking=True)
    height, width = images.shape[2:]
    boxes = random_boxes(len(chosen), (height, width), ERASING_BOX, generator)  # [n, 4]
    top, left, h, w = boxes[:, :, None].unbind(1)  # each [n, 1]
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    in_rows, in_cols = (y >= top) & (y < top + h), (x >= left) & (x < left + w)  # [n, H], [n, W]
    erased = in_rows[:, :, None] & in_cols[:, None, :]  # [n, H, W]
    # A box that never fitted is the whole image, which is not to vanish.
    erased &= (h * w < height * width)[:, :, None]
    noise = torch.randn(len(chosen), *images.shape[1:], generator=generator, device=images.device)
    images = images.clone()
    images[rows] = torch.where(erased[:, None], noise, images[rows])
    return images


def crop_and_resize(pixels: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """u8 [B, C, H, W], boxes f32 [B, 4] (top, left, height, width), flip bool [B] -> f32 [B, C, h, w] in 0..255.

    Equals Pillow's `resize(size, BICUBIC, box=...)` but for its rounding to whole values after each axis.
    """
    a_y = resize_matrix(boxes[:, 0], boxes[:, 2], pixels.shape[2], size[0])  # [B, h, H]
    a_x = resize_matrix(boxes[:, 1], boxes[:, 3], pixels.shape[3], size[1])  # [B, w, W]
    a_x = torch.where(flip[:, None, None], a_x.flip(1), a_x)
    x = (pixels.float() @ a_x.mT[:, None]).clamp_(0, 255)  # [B, C, H, w]; Pillow cuts the overshoot of each axis
    return (a_y[:, None] @ x).clamp_(0, 255)  # [B, C, h, w]


def resize_matrix(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Antialiased bicubic weights f32 [B, out, in] that resample [start, start + length) of a row to `size_out` values.

    start, length: f32 [B] in pixels. The kernel widens with the reduction and is cut at the image's edge, as in Pillow.
    """
    scale = (length / size_out)[:, None, None]  # [B, 1, 1]
    centers = start[:, None, None] + (torch.arange(size_out, device=start.device)[:, None] + 0.5) * scale  # [B, out, 1]
    distance = (torch.arange(size_in, device=start.device) + 0.5 - centers) / scale.clamp(min=1)  # [B, out, in]
    weights = _bicubic(distance.abs())
    return weights / weights.sum(dim=2, keepdim=True)


def _bicubic(x: Tensor) -> Tensor:
    a = _BICUBIC_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
