"""Cropping on the device, against Pillow image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.augment import (
    ERASING_BOX,
    crop_and_resize,
    random_boxes,
    random_erasing,
    random_resized_crop,
    resize_matrix,
)
from training.augmentations import CropConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_pillow(image: NDArray[np.uint8], box: list[float], size: tuple[int, int], *, flip: bool) -> NDArray[np.uint8]:
    """image: [H, W, C]; box: top, left, height, width. Each channel by itself, so that any number of them will do."""
    top, left, height, width = box
    corners = (left, top, left + width, top + height)
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., c])).resize(size[::-1], Image.Resampling.BICUBIC, box=corners)
        for c in range(image.shape[2])
    ]
    pixels = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return pixels[:, ::-1] if flip else pixels


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(32, 32), (16, 48), (96, 80)])  # smaller, mixed and larger than the crops
def test_crops_are_pillows(size: tuple[int, int], channels: int) -> None:
    pixels = torch.randint(0, 256, (12, channels, 60, 70), dtype=torch.uint8, generator=generator())
    boxes = random_boxes(12, (60, 70), CropConfig(scale=(0.1, 1.0)), generator(1))
    flip = torch.arange(12) % 2 == 0
    result = crop_and_resize(pixels, boxes, flip, size)
    assert result.shape == (12, channels, *size)
    for i in range(12):
        image = pixels[i].permute(1, 2, 0).contiguous().numpy()
        expected = by_pillow(image, boxes[i].tolist(), size, flip=bool(flip[i]))
        difference = result[i].permute(1, 2, 0).round().numpy() - expected
        assert np.abs(difference).max() <= 1, f"box {boxes[i].tolist()}"  # Pillow rounds after each axis


def test_the_whole_image_at_its_own_size_is_itself() -> None:
    pixels = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8, generator=generator())
    whole = torch.tensor([[0.0, 0.0, 20.0, 30.0]]).expand(2, 4)
    result = crop_and_resize(pixels, whole, torch.tensor([False, True]), (20, 30))
    torch.testing.assert_close(result[0], pixels[0].float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(result[1], pixels[1].flip(-1).float(), rtol=0, atol=1e-3)


def test_weights_of_every_output_pixel_sum_to_one() -> None:
    weights = resize_matrix(torch.tensor([0.0, 3.0, 9.0]), torch.tensor([40.0, 11.0, 31.0]), 40, 17)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, 17))


sides = st.integers(1, 90)


@st.composite
def ranges(draw: st.DrawFn, low: float, high: float) -> tuple[float, float]:
    first, second = sorted((draw(st.floats(low, high)), draw(st.floats(low, high))))
    return first, second


@given(size=st.tuples(sides, sides), scale=ranges(0.05, 1.0), ratio=ranges(0.3, 3.0), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_boxes_lie_within_the_image_and_the_limits(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], seed: int
) -> None:
    boxes = random_boxes(20, size, CropConfig(scale=scale, ratio=ratio), generator(seed))
    top, left, height, width = boxes.T
    assert torch.equal(boxes, boxes.round())
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= size[0]).all()
    assert (left + width <= size[1]).all()
    whole = (height == size[0]) & (width == size[1])
    assert (whole | within(height, width, size, scale, ratio)).all()


def within(
    height: Tensor, width: Tensor, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Whether some sides that round to these have an area and a ratio in the ranges."""
    area, slack = size[0] * size[1], 0.5 + 1e-3
    small, large = (height - slack) * (width - slack), (height + slack) * (width + slack)
    narrow, wide = (width - slack) / (height + slack), (width + slack) / (height - slack)
    return (small <= scale[1] * area) & (large >= scale[0] * area) & (narrow <= ratio[1]) & (wide >= ratio[0])


def test_boxes_spread_over_the_ranges() -> None:
    boxes = random_boxes(4000, (200, 200), CropConfig(), generator())
    share = boxes[:, 2] * boxes[:, 3] / 200**2
    ratio = boxes[:, 3] / boxes[:, 2]
    assert float(share.min()) < 0.22
    assert 0.9 < float(share.max()) <= 1
    assert float(ratio.min()) < 0.78
    assert float(ratio.max()) > 1.29
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.02)  # as often upright as lying
    small = boxes[(boxes[:, 2:] < 150).all(dim=1)]
    assert small[:, :2].amin(dim=0).tolist() == [0, 0]
    assert (small[:, :2] + small[:, 2:]).amax(dim=0).tolist() == [200, 200]  # every edge is reached
    center = boxes[:, :2] + boxes[:, 2:] / 2
    assert center.mean(dim=0).tolist() == pytest.approx([100, 100], abs=2)


def test_what_never_fits_is_the_whole_image() -> None:
    """A strip of 2 x 200 pixels has no crop of a fifth of its area that is nearly square."""
    boxes = random_boxes(5, (2, 200), CropConfig(), generator())
    assert boxes.tolist() == [[0, 0, 2, 200]] * 5


def test_the_generator_decides_everything() -> None:
    pixels = torch.randint(0, 256, (8, 3, 40, 40), dtype=torch.uint8, generator=generator())
    first, again, other = (random_resized_crop(pixels, (16, 16), CropConfig(), generator(s)) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 255


@pytest.mark.parametrize(("flip", "expected"), [(0.0, 0), (1.0, 500), (0.5, 250)])
def test_flips_come_as_often_as_asked(flip: float, expected: int) -> None:
    """A ramp from left to right, of which every crop rises and every flipped one falls."""
    ramp = torch.arange(0, 240, 6, dtype=torch.uint8).expand(500, 1, 40, 40)
    crops = random_resized_crop(ramp, (8, 8), CropConfig(flip=flip), generator())
    falling = int((crops[:, 0, 0, 0] > crops[:, 0, 0, -1]).sum())
    assert falling == pytest.approx(expected, abs=0 if flip in (0, 1) else 45)  # 4 standard deviations


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"crop.scale must be an increasing range within \(0, 1\]"),
        ({"scale": (0.9, 0.5)}, "crop.scale must be an increasing range"),
        ({"scale": (0.5, 1.1)}, "crop.scale must be an increasing range"),
        ({"ratio": (0.0, 1.0)}, "crop.ratio must be an increasing range above 0"),
        ({"flip": 1.5}, r"crop.flip must lie in 0\.\.1, got 1\.5"),
    ],
)
def test_a_crop_that_cannot_be_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CropConfig(**fields)  # type: ignore[arg-type]


def erased_share(images: Tensor, result: Tensor) -> Tensor:
    """Of each image, f32 [B]; every channel of a pixel is erased together."""
    changed = result != images
    assert torch.equal(changed.all(dim=1), changed.any(dim=1))
    return changed.any(dim=1).float().mean(dim=(1, 2))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_erasing_takes_one_box_of_some_images(channels: int) -> None:
    images = torch.full((400, channels, 48, 64), 9.0)
    result = random_erasing(images, 0.25, np.random.default_rng(0), generator())
    share = erased_share(images, result)
    assert int((share > 0).sum()) == pytest.approx(100, abs=35)  # 4 standard deviations
    touched = share[share > 0]
    assert 0.015 < float(touched.min()) < 0.06  # of 0.02 to a third, within rounding to whole pixels
    assert 0.28 < float(touched.max()) < 0.35
    for image in (result != images)[share > 0, 0][:30]:
        rows, cols = image.any(dim=1), image.any(dim=0)
        assert torch.equal(image, rows[:, None] & cols)  # a rectangle
        assert int(rows.diff().sum()) <= 2  # in one piece
        assert int(cols.diff().sum()) <= 2
    assert float(images.min()) == 9


def test_what_is_erased_becomes_unit_noise() -> None:
    images = torch.full((200, 3, 32, 32), 9.0)
    result = random_erasing(images, 1.0, np.random.default_rng(0), generator())
    noise = result[result != 9]
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_erasing_never_takes_a_whole_image() -> None:
    """In a strip of 2 x 200 pixels no box fits."""
    images = torch.full((20, 1, 2, 200), 9.0)
    assert random_boxes(20, (2, 200), ERASING_BOX, generator())[:, 2:].tolist().count([2, 200]) > 0
    assert float(erased_share(images, random_erasing(images, 1.0, np.random.default_rng(0), generator())).max()) < 1


def test_erasing_that_is_off_changes_nothing() -> None:
    images = torch.rand(50, 3, 16, 16, generator=generator())
    assert torch.equal(random_erasing(images, 0.0, np.random.default_rng(0), generator()), images)


def test_both_generators_decide_what_is_erased() -> None:
    images = torch.rand(50, 3, 16, 16, generator=generator())
    first, again, elsewhere, others = (
        random_erasing(images, 0.5, np.random.default_rng(choice), generator(place))
        for choice, place in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, elsewhere)
    assert not torch.equal(first, others)
