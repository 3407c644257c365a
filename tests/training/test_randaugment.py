"""RandAugment on the device, each operation against Pillow image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from training.augmentations import RandAugmentConfig
from training.randaugment import GEOMETRIC, TONAL, apply_operations, operations, rand_augment

FILL = (120, 90, 60)
NUM, HEIGHT, WIDTH = 6, 33, 45


def pictures(channels: int = 3, num: int = NUM) -> Tensor:
    """f32 [num, C, H, W] of whole values: smooth, noisy and of few tones, not reaching 0 and 255 everywhere."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    wave = 100 + 60 * np.sin(x / 5 + np.arange(num)[:, None, None, None]) * np.cos(y / 7)  # [num, 1, H, W]
    noise = rng.normal(0, np.linspace(0, 40, num)[:, None, None, None], (num, channels, HEIGHT, WIDTH))
    values = (wave + noise + 20 * np.arange(channels)[:, None, None]).clip(3, 252)
    return torch.from_numpy(values.round().astype(np.float32))


def transform(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    fill = FILL if image.mode == "RGB" else FILL[0]
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=fill
    )


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    fill = FILL if image.mode == "RGB" else FILL[0]
    return image.rotate(degrees, resample=Image.Resampling.BILINEAR, fillcolor=fill)


def solarize_add(image: Image.Image, addition: int) -> Image.Image:
    table = [min(255, i + addition) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


# What a magnitude m of 0..1 and a sign s mean, written out from the rules of `rand-m9-mstd0.5-inc1`.
PILLOW: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "autocontrast": lambda image, _m, _s: ImageOps.autocontrast(image),
    "equalize": lambda image, _m, _s: ImageOps.equalize(image),
    "invert": lambda image, _m, _s: ImageOps.invert(image),
    "rotate": lambda image, m, s: rotate(image, s * m * 30),
    "posterize": lambda image, m, _s: ImageOps.posterize(image, 4 - int(m * 4)),
    "solarize": lambda image, m, _s: ImageOps.solarize(image, 256 - int(m * 256)),
    "solarize_add": lambda image, m, _s: solarize_add(image, int(m * 110)),
    "color": lambda image, m, s: ImageEnhance.Color(image).enhance(max(0.1, 1 + s * m * 0.9)),
    "contrast": lambda image, m, s: ImageEnhance.Contrast(image).enhance(max(0.1, 1 + s * m * 0.9)),
    "brightness": lambda image, m, s: ImageEnhance.Brightness(image).enhance(max(0.1, 1 + s * m * 0.9)),
    "sharpness": lambda image, m, s: ImageEnhance.Sharpness(image).enhance(max(0.1, 1 + s * m * 0.9)),
    "shear_x": lambda image, m, s: transform(image, (1, s * m * 0.3, 0, 0, 1, 0)),
    "shear_y": lambda image, m, s: transform(image, (1, 0, 0, s * m * 0.3, 1, 0)),
    "translate_x": lambda image, m, s: transform(image, (1, 0, s * m * 0.45 * image.width, 0, 1, 0)),
    "translate_y": lambda image, m, s: transform(image, (1, 0, 0, 0, 1, s * m * 0.45 * image.height)),
}


def by_pillow(pixels: Tensor, name: str, level: float, sign: float) -> NDArray[np.float64]:
    """One image, f32 [C, H, W] -> f64 [C, H, W]."""
    image = Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy().astype(np.uint8))
    changed = np.asarray(PILLOW[name](image, level, sign), np.float64)
    return changed[None] if changed.ndim == 2 else changed.transpose(2, 0, 1)


def applied(pixels: Tensor, names: list[str], level: Any, sign: Any) -> Tensor:
    pixels = pixels.clone()
    apply_operations(
        pixels, names, np.broadcast_to(level, len(names)), np.broadcast_to(sign, len(names)), FILL[: pixels.shape[1]]
    )
    return pixels


@pytest.mark.parametrize(("name", "channels"), [(name, c) for c in (1, 3) for name in operations(c)])
def test_every_operation_is_pillows(name: str, channels: int) -> None:
    pixels = pictures(channels)
    for level, sign in ((0.9, 1.0), (0.83, -1.0), (0.1, 1.0)):
        result = applied(pixels, [name] * NUM, level, sign)
        for i in range(NUM):
            difference = np.abs(result[i].numpy() - by_pillow(pixels[i], name, level, sign))
            assert difference.max() <= 1.5, f"image {i} at {level}"  # Pillow rounds, or cuts, after every operation
        assert not torch.equal(result, pixels)


def test_an_image_of_one_tone_has_no_contrast_to_stretch() -> None:
    flat = torch.full((1, 3, 8, 8), 77.0)
    for name in ("autocontrast", "equalize", "contrast", "sharpness"):
        torch.testing.assert_close(applied(flat, [name], 0.9, 1.0), flat, rtol=0, atol=1e-4)


def test_each_image_gets_its_own_operation_and_level() -> None:
    """Changed together or one by one, the pixels are the same."""
    names = ["rotate", "invert", "", "shear_y", "posterize", "invert"]
    level, sign = np.linspace(0.5, 1.0, 6), np.array([1.0, -1, 1, -1, 1, -1])
    pixels = pictures()
    together = applied(pixels, names, level, sign)
    for i in range(6):
        alone = applied(pixels[i : i + 1], names[i : i + 1], level[i], sign[i])
        torch.testing.assert_close(together[i], alone[0])
    assert torch.equal(together[2], pixels[2])


def test_no_magnitude_leaves_a_black_image() -> None:
    """Ten would mean no bit at all."""
    assert float(applied(pictures(), ["posterize"] * NUM, 1.0, 1.0).amax(dim=(1, 2, 3)).min()) == 128


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, {*GEOMETRIC, *TONAL}), (3, {*GEOMETRIC, *TONAL, "color"}), (4, {*GEOMETRIC}), (6, {*GEOMETRIC})],
)
def test_colour_is_changed_only_where_it_is_colour(channels: int, expected: set[str]) -> None:
    assert set(operations(channels)) == expected
    pixels = pictures(channels, num=40)
    result = rand_augment(pixels, RandAugmentConfig(prob=1.0), [9.0] * channels, np.random.default_rng(0))
    assert result.shape == pixels.shape
    assert float(result.min()) >= 0
    assert float(result.max()) <= 255


def test_every_operation_comes_equally_often_and_half_of_the_time() -> None:
    """Told apart by what each does to an image of its own; 15 operations, of which two are tried at a half."""
    one = (pictures(num=1)[:, :, :16, :20] * 1.6 - 90).clamp(0, 255).round()  # dark and bright pixels
    pixels = one.expand(3000, -1, -1, -1)
    config = RandAugmentConfig(num_ops=1, magnitude_std=0.0)
    result = rand_augment(pixels, config, FILL, np.random.default_rng(0))
    expected = {(name, sign): applied(one, [name], 0.9, sign)[0] for name in operations(3) for sign in (1.0, -1.0)}
    unchanged = int((result == pixels).all(dim=(1, 2, 3)).sum())
    assert unchanged == pytest.approx(1500, abs=110)  # 4 standard deviations
    for name in operations(3):
        same = torch.zeros(3000, dtype=torch.bool)
        for sign in (1.0, -1.0):
            same |= (result - expected[name, sign]).abs().amax(dim=(1, 2, 3)) < 1e-2
        assert int(same.sum()) == pytest.approx(100, abs=40), name


def test_magnitudes_spread_around_what_is_asked_for() -> None:
    """Read back from how dark brightness makes a white image: a factor of 1 - 0.09 m, or white where it would rise."""
    white = torch.full((20000, 1, 3, 3), 255.0)
    rng = np.random.default_rng(0)
    result = rand_augment(white, RandAugmentConfig(num_ops=1, prob=1.0, magnitude=7.0), [0.0], rng)[:, 0, 1, 1]
    # A grey pixel below 255 that no other operation makes: solarize and invert give 0, posterize 128 or 192.
    magnitudes = (1 - result[(result > 1) & (result < 120)] / 255) / 0.09
    assert len(magnitudes) == pytest.approx(20000 / 14 / 2, abs=110)
    assert float(magnitudes.mean()) == pytest.approx(7, abs=0.1)
    assert float(magnitudes.std()) == pytest.approx(0.5, abs=0.06)


def test_the_generator_decides_everything_and_the_input_stays() -> None:
    pixels = pictures()
    before = pixels.clone()
    first, again, other = (
        rand_augment(pixels, RandAugmentConfig(prob=1.0), FILL, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"magnitude": 11.0}, r"--randaugment must lie in 0\.\.10, got 11"),
        ({"magnitude": -1.0}, "--randaugment must lie"),
        ({"magnitude_std": -0.5}, "randaugment.magnitude_std must not be negative"),
        ({"num_ops": 0}, "num_ops at least 1, got 0.5 and 0"),
        ({"prob": 1.5}, r"randaugment.prob must lie in 0\.\.1, got 1\.5"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugmentConfig(**fields)
