"""Every kind of image that callers send, against Pillow by hand; and every kind of broken one."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image

from bundle.decode import decode_image, image_size
from bundle.errors import InvalidInput, TooLarge, UnsupportedMedia
from bundle.formats import ALL, DEFAULT
from bundle.manifest import Preprocess
from bundle.preprocess import (
    center_crop,
    preprocess,
    preprocess_array,
    preprocess_image,
)


def spec(resize: tuple[int, int], crop: tuple[int, int] | None = None, channels: int = 3) -> Preprocess:
    return Preprocess(resize=resize, crop=crop or resize, mean=(0.5,) * channels, std=(0.5,) * channels)


def photo(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Smooth, and different in every corner and channel, so that a flip, a swap or a shift shows."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = np.stack([x, y, (x + 2 * y) / 3, 0.25 + y / 2], axis=-1) * 255
    return Image.fromarray(planes.astype(np.uint8), "RGBA").convert(mode)


def encode(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if format_ == "HEIF":  # not registered with Pillow, here as little as where it is read
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, format_, **options)
    return buffer.getvalue()


def same_size(data: bytes, channels: int = 3) -> NDArray[np.uint8]:
    """The pixels as they are: nothing scaled, nothing cut."""
    return preprocess(data, spec(image_size(data), channels=channels), channels=channels)


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG's header, 8-bit RGB, and whatever follows."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + body


# Converting


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_every_format_gives_pillows_pixels(format_: str) -> None:
    data = encode(photo(20, 30), format_)
    assert np.array_equal(same_size(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_the_result_is_contiguous_uint8_of_the_crop() -> None:
    pixels = preprocess(encode(photo(50, 70), "PNG"), spec((40, 44), (32, 36)))
    assert pixels.shape == (32, 36, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_modes_are_converted(mode: str) -> None:
    data = encode(photo(24, 24, mode), "JPEG", quality=95)
    assert np.array_equal(same_size(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["P", "1", "L"])
def test_png_modes_are_converted(mode: str) -> None:
    image = photo(24, 24).convert(mode)
    assert np.array_equal(same_size(encode(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    image = photo(16, 16, mode)
    values = np.asarray(image).astype(float)
    color, alpha = values[..., :-1], values[..., -1:] / 255
    expected = color * alpha + 255 * (1 - alpha)
    assert np.abs(same_size(encode(image, "PNG")) - expected).max() <= 1


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    assert (same_size(encode(image, "PNG", transparency=1)) == 255).all()
    assert (same_size(encode(image, "PNG", transparency=0)) == (200, 100, 50)).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 255, 256], [0x7FFF, 0x8000, 0xFFFF]], np.uint16)
    pixels = same_size(encode(Image.fromarray(values), "PNG"))
    assert pixels[..., 0].tolist() == [[0, 0, 1], [0x7F, 0x80, 0xFF]]
    assert (pixels == pixels[..., :1]).all()


def test_sixteen_bit_big_endian_tiff() -> None:
    values = np.array([[0x0102, 0xFE00]], ">u2")
    assert same_size(encode(Image.fromarray(values), "TIFF"))[..., 0].tolist() == [[0x01, 0xFE]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bit_pixels_are_refused(dtype: type) -> None:
    with pytest.raises(UnsupportedMedia, match="32-bit pixels"):
        same_size(encode(Image.fromarray(np.ones((4, 4), dtype)), "TIFF"))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_choose_the_mode(channels: int, mode: str) -> None:
    image = photo(12, 12)
    pixels = same_size(encode(image, "PNG"), channels)
    assert pixels.shape == (12, 12, channels)
    assert np.array_equal(pixels, np.asarray(image.convert(mode)).reshape(12, 12, channels))


def test_four_channels_keep_their_alpha() -> None:
    image = photo(12, 12, "RGBA")
    assert np.array_equal(same_size(encode(image, "PNG"), 4), np.asarray(image))


def test_other_channel_counts_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="channels must be one of"):
        decode_image(encode(photo(8, 8), "PNG"), channels=2)


# Orientation and animation


def undo(orientation: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """From upright pixels to those that a camera stores with this EXIF orientation (Exif 2.32, tag 0x0112)."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, format_: str) -> None:
    upright = np.asarray(photo(16, 24))
    stored = Image.fromarray(np.ascontiguousarray(undo(orientation)(upright)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    options = lossless.get(format_, {})
    data = encode(stored, format_, exif=exif, **options)
    pixels = preprocess(data, spec((16, 24)))
    assert np.abs(pixels.astype(int) - upright).max() <= (4 if format_ == "JPEG" else 0)


def test_image_size_is_upright_and_reads_no_pixels() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    assert image_size(encode(photo(16, 24), "JPEG", exif=exif)) == (24, 16)
    assert image_size(png(7000, 9000, b"\0\0\0\0IDAT")) == (9000, 7000)


def test_broken_exif_costs_no_picture() -> None:
    image = photo(16, 24)
    data = encode(image, "JPEG", exif=b"Exif\0\0garbage, no TIFF header")
    assert np.array_equal(same_size(data), np.asarray(Image.open(io.BytesIO(encode(image, "JPEG")))))


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_counts_as_its_first_frame(format_: str) -> None:
    colors = ("red", "lime", "blue")
    frames = [Image.new("RGB", (16, 16), color) for color in colors]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encode(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert (same_size(data) == (255, 0, 0)).all()


def test_the_first_picture_of_an_mpo_counts() -> None:
    """What phones call .jpg and store with a second picture behind the first."""
    first, second = photo(32, 32), Image.new("RGB", (32, 32), "red")
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert np.array_equal(same_size(data), np.asarray(Image.open(io.BytesIO(encode(first, "JPEG")))))


# Scaling and cutting


@pytest.mark.parametrize("size", [(40, 60), (300, 200), (32, 32), (9, 11), (1, 50)])
@pytest.mark.parametrize("target", [(32, 32), (24, 48), (48, 24)])
def test_scaling_covers_the_target_and_keeps_the_aspect(size: tuple[int, int], target: tuple[int, int]) -> None:
    """By hand: the largest box of the target's aspect in the middle of the image, resampled."""
    image = photo(*size)
    (height, width), (rows, columns) = size, target
    aspect = columns / rows
    box_height, box_width = (
        (width / aspect, float(width)) if height * aspect > width else (float(height), height * aspect)
    )
    top, left = (height - box_height) / 2, (width - box_width) / 2
    box = (left, top, left + box_width, top + box_height)
    expected = np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC, box=box))
    actual = preprocess(encode(image, "PNG"), spec(target))
    assert np.abs(actual.astype(int) - expected).max() <= 1  # the box's corners are computed in another order


def test_scaling_agrees_with_resize_then_crop() -> None:
    """The common recipe, to half a pixel: shorter side to 64, then 48 from the centre."""
    image = photo(120, 180)
    expected = np.asarray(image.resize((96, 64), Image.Resampling.BICUBIC))[8:56, 24:72]
    assert np.abs(preprocess_image(image, spec((64, 64), (48, 48))).astype(int) - expected).max() <= 1


def test_bilinear_is_bilinear() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    bilinear = spec((20, 20)).model_copy(update={"interpolation": "bilinear"})
    assert np.array_equal(
        preprocess_image(noise, bilinear), np.asarray(noise.resize((20, 20), Image.Resampling.BILINEAR))
    )


@pytest.mark.parametrize("size", [(40, 60), (300, 200), (32, 32), (9, 11), (1, 50)])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_arrays_are_scaled_as_images_are(size: tuple[int, int], channels: int, mode: str) -> None:
    image = photo(*size).convert(mode)
    pixels = np.asarray(image).reshape(*size, channels)
    for target, cut in (((32, 32), (32, 32)), ((24, 48), (20, 31))):
        expected = preprocess_image(image, spec(target, cut, channels))
        result = preprocess_array(pixels, spec(target, cut, channels))
        assert result.flags.c_contiguous
        assert np.array_equal(result, expected)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_each_channel_of_an_array_is_scaled_by_itself(channels: int) -> None:
    """Unlike an image's fourth channel, which is how much of the others is seen."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, channels), dtype=np.uint8)
    result = preprocess_array(pixels, spec((32, 24), (30, 24), channels))
    assert result.shape == (30, 24, channels)
    for c in range(channels):
        expected = preprocess_array(pixels[:, :, c : c + 1], spec((32, 24), (30, 24), 1))
        assert np.array_equal(result[:, :, c : c + 1], expected)


def test_a_strip_costs_what_a_square_costs() -> None:
    """Scaled first and cut afterwards, this one would pass through 12.8 million times its own pixels."""
    assert preprocess(encode(Image.new("L", (50_000, 1), 7), "PNG"), spec((256, 256))).shape == (256, 256, 3)


sides = st.integers(1, 40)


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.tuples(sides, sides))
@settings(max_examples=60, deadline=None)
def test_cutting_a_pack_equals_preprocessing_the_image(
    size: tuple[int, int], pack: tuple[int, int], crop: tuple[int, int]
) -> None:
    """Training's evaluation reads packs, the service reads files: exactly the same pixels, odd sizes included."""
    crop = (min(crop[0], pack[0]), min(crop[1], pack[1]))
    data = encode(photo(*size), "PNG")
    assert np.array_equal(center_crop(preprocess(data, spec(pack)), crop), preprocess(data, spec(pack, crop)))


def test_center_crop_leaves_the_odd_pixel_on_the_right_and_below() -> None:
    pixels = np.arange(2 * 5 * 6).reshape(2, 5, 6, 1)
    assert np.array_equal(center_crop(pixels, (2, 3)), pixels[:, 1:3, 1:4])
    with pytest.raises(ValueError, match="cannot cut 6 x 6"):
        center_crop(pixels, (6, 6))


# Broken and hostile


@pytest.mark.parametrize("format_", list(DEFAULT))
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_truncated_image_is_invalid_and_its_index_said(format_: str, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, format_)
    data = data[: max(12, int(len(data) * part))]
    with pytest.raises(InvalidInput, match="image 3 is") as caught:
        preprocess(data, spec((32, 32)), index=3)
    assert type(caught.value) is InvalidInput
    assert caught.value.index == 3


def test_no_bytes_are_invalid() -> None:
    with pytest.raises(InvalidInput, match="image 0 is empty") as caught:
        preprocess(b"", spec((32, 32)))
    assert type(caught.value) is InvalidInput


@pytest.mark.parametrize(
    "data", [b"hello, world", b"\0", b"<svg xmlns='x'/>", b"%PDF-1.7", b"\x89PNG", b"RIFF1234WAVE"]
)
def test_what_is_no_image_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="JPEG, PNG, WEBP, GIF, BMP, TIFF") as caught:
        preprocess(data, spec((32, 32)), index=2)
    assert caught.value.index == 2


@pytest.mark.parametrize("side", [10_000, 14_000, 60_000])  # below, above and far above where Pillow warns and raises
def test_too_many_pixels_are_refused_from_the_header(side: int) -> None:
    """There are no pixels: had it gone on to decode, this would be an InvalidInput, or Pillow's warning."""
    with pytest.raises(TooLarge, match=f"{side} x {side} pixels") as caught:
        preprocess(png(side, side), spec((32, 32)), index=1)
    assert caught.value.index == 1


@pytest.mark.parametrize("format_", ["AVIF", *DEFAULT])
def test_every_format_is_held_against_the_limit(format_: str) -> None:
    with pytest.raises(TooLarge, match="30 x 20 pixels, more than 599"):
        preprocess(encode(photo(20, 30), format_), spec((8, 8)), max_pixels=599, formats=ALL)


def test_the_limit_is_the_callers() -> None:
    data = encode(photo(10, 10), "PNG")
    assert preprocess(data, spec((8, 8)), max_pixels=100).shape == (8, 8, 3)
    with pytest.raises(TooLarge, match="more than 99"):
        preprocess(data, spec((8, 8)), max_pixels=99)


def test_a_limit_above_pillows_own_holds() -> None:
    """Pillow warns from 89 megapixels; warnings are errors here."""
    data = encode(Image.new("1", (10_000, 9_500)), "PNG")
    assert preprocess(data, spec((8, 8)), max_pixels=100_000_000).shape == (8, 8, 3)


@given(
    format_=st.sampled_from(["AVIF", *DEFAULT]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    part=st.floats(0.5, 1),
)
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_give_pixels_or_invalid_input_and_nothing_else(
    format_: str, edits: list[tuple[float, int]], part: float
) -> None:
    data = bytearray(encode(photo(40, 50), format_))
    for place, value in edits:
        data[int(place * len(data))] = value
    try:
        pixels = preprocess(bytes(data[: int(len(data) * part)]), spec((16, 16)), max_pixels=1_000_000, formats=ALL)
    except InvalidInput:
        return
    assert pixels.shape == (16, 16, 3)
