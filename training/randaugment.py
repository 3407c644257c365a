"""RandAugment for a whole batch on its device (Cubuk et al. 2020): each image gets operations and strengths of its own.

The operations and what a magnitude means are those of timm's `rand-m9-mstd0.5-inc1`, which the paper's code fine-tunes
with: a greater magnitude is always a stronger change. Each operation equals Pillow's within rounding; images that drew
the same one are gathered and changed together. Letters: B images, n of them that share an operation, C channels, H x W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.augmentations import MAX_MAGNITUDE, RandAugmentConfig

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's conversion to grey

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TONAL = (
    "autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add", "contrast", "brightness",
    "sharpness",
)  # fmt: skip


def operations(channels: int) -> tuple[str, ...]:
    """What images of so many channels may draw from.

    RGB: everything. Grey: everything but saturation. Of other channels nobody says what they measure (alpha, infrared,
    depth), so nothing but geometry is safe.
    """
    if channels == 3:
        return (*GEOMETRIC, *TONAL, "color")
    return (*GEOMETRIC, *TONAL) if channels == 1 else GEOMETRIC


def rand_augment(pixels: Tensor, config: RandAugmentConfig, fill: Sequence[float], rng: np.random.Generator) -> Tensor:
    """f32 [B, C, H, W] in 0..255 -> the same, changed. fill: per channel, for what comes in from outside the image.

    The choices are drawn on the host, so that nothing waits for the device to learn the sizes of the groups.
    """
    names = operations(pixels.shape[1])
    pixels = pixels.clone()
    for _ in range(config.num_ops):
        chosen = rng.integers(len(names), size=len(pixels))  # [B]
        level = rng.normal(config.magnitude, config.magnitude_std, len(pixels)).clip(0, MAX_MAGNITUDE) / MAX_MAGNITUDE
        sign = rng.choice([-1.0, 1.0], len(pixels))
        chosen[rng.random(len(pixels)) >= config.prob] = -1
        apply_operations(pixels, [names[i] if i >= 0 else "" for i in chosen], level, sign, fill)
    return pixels


def apply_operations(
    pixels: Tensor, chosen: Sequence[str], level: NDArray[np.float64], sign: NDArray[np.float64], fill: Sequence[float]
) -> None:
    """In place: one operation per image, "" = none. level: f64 [B] in 0..1; sign: f64 [B] of -1 and 1."""
    names = np.array(chosen)
    moved = np.flatnonzero(np.isin(names, GEOMETRIC))
    if len(moved):
        size = (pixels.shape[2], pixels.shape[3])
        matrices = np.stack([affine_matrix(names[i], level[i], sign[i], size) for i in moved])  # [n, 2, 3]
        rows = _on(pixels, moved)
        pixels[rows] = affine(pixels[rows], _on(pixels, matrices.astype(np.float32)), fill)
    for name, operation in _OPERATIONS.items():
        group = np.flatnonzero(names == name)
        if len(group):
            amount = amount_of(name, level[group], sign[group]).astype(np.float32)
            rows = _on(pixels, group)
            pixels[rows] = operation(pixels[rows], _on(pixels, amount)[:, None, None, None])


def _on(pixels: Tensor, values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values).to(pixels.device, non_blocking=True)


def affine_matrix(name: str, level: float, sign: float, size: tuple[int, int]) -> NDArray[np.float64]:
    """f64 [2, 3]: from a place in the result to its place in the image, (x, y) in pixels from the upper left corner.

    At full level: a turn by 30 degrees about the centre, a shear by 0.3 from that corner, a shift by 45 % of the side.
    """
    amount = float(level * sign)
    height, width = size
    if name == "rotate":
        angle = -np.deg2rad(30 * amount)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        center = np.array([width / 2, height / 2])
        return np.column_stack([turn, center - turn @ center])
    x, y = (amount, 0.0) if name.endswith("_x") else (0.0, amount)
    if name.startswith("shear"):
        return np.array([[1, 0.3 * x, 0], [0.3 * y, 1, 0]])
    return np.array([[1, 0, 0.45 * x * width], [0, 1, 0.45 * y * height]])


def affine(pixels: Tensor, matrices: Tensor, fill: Sequence[float]) -> Tensor:
    """f32 [n, C, H, W] resampled bilinearly; matrices: f32 [n, 2, 3], see `affine_matrix`."""
    height, width = pixels.shape[2:]
    y = torch.arange(height, device=pixels.device) + 0.5
    x = torch.arange(width, device=pixels.device) + 0.5
    a, b, c = (matrices[:, :, i, None, None] for i in range(3))  # each [n, 2, 1, 1]
    place = a * x + b * y[:, None] + c  # [n, 2, H, W] of (x, y)
    sides = torch.tensor([width, height], dtype=place.dtype).to(place.device, non_blocking=True)[:, None, None]
    inside = ((place >= 0) & (place < sides)).all(dim=1, keepdim=True)  # [n, 1, H, W]
    grid = (2 * place / sides - 1).permute(0, 2, 3, 1)  # [n, H, W, 2]
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    outside = torch.tensor(fill, dtype=pixels.dtype).to(pixels.device, non_blocking=True)[:, None, None]
    return torch.where(inside, moved, outside)


def amount_of(name: str, level: NDArray[np.float64], sign: NDArray[np.float64]) -> NDArray[np.float64]:
    """From levels in 0..1 to what the operation takes: bits, a threshold, a value to add or a factor."""
    if name == "posterize":
        return (4 - np.floor(4 * level)).clip(min=1)  # timm lets 0 bits through: a black image
    if name == "solarize":
        return 256 - np.floor(256 * level)
    if name == "solarize_add":
        return np.floor(110 * level)
    return (1 + 0.9 * level * sign).clip(min=0.1)  # of contrast, brightness, sharpness and colour


def _autocontrast(x: Tensor, _amount: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one value stays."""
    low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp(min=1e-6)), x)


def _equalize(x: Tensor, _amount: Tensor) -> Tensor:
    """Flatten the histogram of each channel, by Pillow's integer table."""
    values = x.round().long().flatten(2)  # [n, C, H*W]
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=x.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    greatest = counts.gather(2, values.amax(dim=2, keepdim=True))  # [n, C, 1]
    step = (values.shape[2] - greatest) // 255
    table = (step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)  # [n, C, 256]
    equalized = table.clamp(max=255).gather(2, values).view_as(x).to(x.dtype)
    return torch.where(step[..., None] > 0, equalized, x)


def _invert(x: Tensor, _amount: Tensor) -> Tensor:
    return 255 - x


def _posterize(x: Tensor, bits: Tensor) -> Tensor:
    step = torch.exp2(8 - bits)
    return (x.round() / step).floor() * step


def _solarize(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x < threshold, x, 255 - x)


def _solarize_add(x: Tensor, addition: Tensor) -> Tensor:
    return torch.where(x < 128, (x + addition).clamp(max=255), x)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(_grey(x).mean(dim=(2, 3), keepdim=True).round(), x, factor)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp(0, 255)


def _color(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(_grey(x), x, factor)


def _sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, a smoothing by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the outermost pixels stay."""
    inner = x[:, :, 1:-1, 1:-1]
    smooth = (9 * F.avg_pool2d(x, 3, stride=1) + 4 * inner) / 13
    out = x.clone()
    out[:, :, 1:-1, 1:-1] = _blend(smooth, inner, factor)
    return out


def _grey(x: Tensor) -> Tensor:
    """[n, C, H, W] of one or three channels -> [n, 1, H, W]."""
    if x.shape[1] == 1:
        return x
    red, green, blue = _LUMA
    return red * x[:, :1] + green * x[:, 1:2] + blue * x[:, 2:]


def _blend(start: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    return (start + factor * (end - start)).clamp(0, 255)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast, "equalize": _equalize, "invert": _invert, "posterize": _posterize,
    "solarize": _solarize, "solarize_add": _solarize_add, "contrast": _contrast, "brightness": _brightness,
    "sharpness": _sharpness, "color": _color,
}  # fmt: skip
