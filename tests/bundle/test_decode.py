"""JPEGs, decoded by libjpeg-turbo directly and at a part of their size, against Pillow's whole and exact path."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from bundle.decode import decode_image
from bundle.errors import InvalidInput
from bundle.manifest import Preprocess
from bundle.preprocess import preprocess


def spec(height: int, width: int, channels: int = 3) -> Preprocess:
    size = (height, width)
    return Preprocess(resize=size, crop=size, mean=(0.5,) * channels, std=(0.5,) * channels)


def picture(height: int, width: int) -> Image.Image:
    """Waves of several lengths and directions, different in each channel: detail, but none that aliases."""
    y, x = np.mgrid[0:height, 0:width] / 40
    waves = [np.sin(2 * x + y), np.sin(x * 1.3 - 3 * y + 1), np.cos(4 * x * y / (1 + height / 40))]
    return Image.fromarray(((np.stack(waves, axis=-1) + 1) * 120).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def reference(data: bytes, height: int, width: int, mode: str = "RGB") -> NDArray[np.uint8]:
    """Every pixel decoded by Pillow, turned upright, then the covering box resampled by its bicubic."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode)
    scale = min(image.width / width, image.height / height)
    left, top = max(0, image.width - width * scale) / 2, max(0, image.height - height * scale) / 2
    box = (left, top, image.width - left, image.height - top)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box)).reshape(height, width, -1)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """In dB, of 8 bits; 99 for equal arrays."""
    error = np.mean((a.astype(float) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 99.0


ENCODINGS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "optimized": {"optimize": True, "quality": 50},
}


@pytest.mark.parametrize("options", ENCODINGS.values(), ids=ENCODINGS)
def test_whole_jpegs_have_pillows_very_pixels(options: dict[str, Any]) -> None:
    data = jpeg(picture(75, 101), **options)
    decoded = decode_image(data, channels=3)
    assert np.array_equal(np.asarray(decoded.image), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert (decoded.extent, decoded.size) == ((75, 101), (75, 101))


def test_411_has_pillows_very_pixels() -> None:
    data = simplejpeg.encode_jpeg(np.asarray(picture(75, 101)), 92, "RGB", "411")
    assert np.array_equal(
        np.asarray(decode_image(data, channels=3).image), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


@pytest.mark.parametrize("options", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("size", [(375, 500), (240, 361), (601, 450), (1203, 1601)])
def test_parts_are_near_the_whole(size: tuple[int, int], options: dict[str, Any]) -> None:
    data = jpeg(picture(*size), **options)
    assert psnr(preprocess(data, spec(144, 144)), reference(data, 144, 144)) > 33


@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.tuples(st.integers(8, 64), st.integers(8, 64)),
    st.integers(1, 8),
    st.sampled_from([0, 2]),
)
@settings(max_examples=80, deadline=None)
def test_any_size_and_orientation_is_near_the_whole(
    size: tuple[int, int], target: tuple[int, int], orientation: int, subsampling: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = jpeg(picture(*size), exif=exif, subsampling=subsampling)
    pixels = preprocess(data, spec(*target))
    assert pixels.shape == (*target, 3)
    assert np.abs(pixels.astype(float) - reference(data, *target)).mean() < 3


@pytest.mark.parametrize(
    ("size", "target", "part"),
    [
        ((375, 500), 224, 4),
        ((375, 500), 64, 2),
        ((333, 500), 224, 8),
        ((448, 600), 224, 4),
        ((370, 500), 224, 8),
        ((3000, 4000), 224, 1),
    ],
)
def test_the_part_that_is_decoded_is_the_smallest_that_nearly_covers(
    size: tuple[int, int], target: int, part: int
) -> None:
    decoded = decode_image(jpeg(Image.new("RGB", size[::-1])), channels=3, target=(target, target))
    height, width = size
    assert decoded.image.size == (-(-width * part // 8), -(-height * part // 8))
    assert decoded.extent == (height * part / 8, width * part / 8)
    assert decoded.size == size


def test_colour_that_does_not_scale_along_is_decoded_larger() -> None:
    data = jpeg(Image.new("RGB", (1600, 1200)), subsampling=1)  # 4:2:2
    assert decode_image(data, channels=3, target=(150, 150)).image.size == (400, 300)


def test_the_part_is_chosen_upright() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    decoded = decode_image(jpeg(picture(400, 1600), exif=exif), channels=3, target=(800, 200))
    assert decoded.size == (1600, 400)
    assert decoded.image.size == (800, 200)


def test_grey_is_decoded_as_grey() -> None:
    data = jpeg(picture(300, 400))
    assert psnr(preprocess(data, spec(64, 64, 1), channels=1), reference(data, 64, 64, "L")) > 38
    grey = jpeg(picture(300, 400).convert("L"))
    assert psnr(preprocess(grey, spec(64, 64)), reference(grey, 64, 64)) > 38


def test_cmyk_goes_by_pillow_and_is_near_the_whole() -> None:
    data = jpeg(picture(300, 400).convert("CMYK"))
    assert psnr(preprocess(data, spec(64, 64)), reference(data, 64, 64)) > 33


def test_a_jpeg_cut_anywhere_among_its_pixels_is_refused() -> None:
    data = jpeg(picture(200, 300))
    start = data.index(b"\xff\xda") + 14
    for end in np.linspace(start, len(data) - 30, 12).astype(int):
        with pytest.raises(InvalidInput, match="image 2 is truncated or corrupt"):
            preprocess(data[:end], spec(64, 64), index=2)


def test_bytes_behind_the_end_change_nothing() -> None:
    data = jpeg(picture(200, 300))
    assert np.array_equal(preprocess(data + b"\0trailing\xff\xd8\xff", spec(64, 64)), preprocess(data, spec(64, 64)))


def test_a_corrupt_middle_is_what_pillow_makes_of_it() -> None:
    """libjpeg warns and goes on; strictly read it is an error, so that Pillow decides."""
    data = bytearray(jpeg(picture(64, 64)))
    middle = data.index(b"\xff\xda") + 200
    data[middle : middle + 4] = b"\xff\xd3\xff\xd5"
    with pytest.raises(ValueError, match=r"."):
        simplejpeg.decode_jpeg(bytes(data))
    pixels = preprocess(bytes(data), spec(64, 64))
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    """A progressive JPEG whose last scan is there a hundred times: a second for every few kB of it."""
    plain = jpeg(picture(64, 64), progressive=True)
    last = plain.rindex(b"\xff\xda")
    scan = plain[last:-2]
    for extra, refused in ((20, False), (100, True)):
        data = plain[:-2] + scan * extra + plain[-2:]
        if refused:
            with pytest.raises(InvalidInput, match="image 3 is a JPEG of more than 64 scans"):
                decode_image(data, channels=3, index=3)
        else:
            assert decode_image(data, channels=3).size == (64, 64)


def test_what_a_camera_puts_behind_a_jpeg_is_not_counted_as_scans() -> None:
    data = jpeg(picture(64, 64)) + b"\xff\xda" * 1000
    assert decode_image(data, channels=3).size == (64, 64)
