"""Which formats are read, which have to be asked for, and what each of them promises before it is decoded."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from bundle.errors import InvalidInput, TooLarge, UnsupportedMedia
from bundle.formats import ALL, DEFAULT, default_formats, parse_formats, sniff_format
from bundle.manifest import Preprocess
from bundle.preprocess import preprocess

SPEC = Preprocess(resize=(32, 40), crop=(32, 40), mean=(0.5,) * 3, std=(0.5,) * 3)
LOSSLESS: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}
LOSSY = {"JPEG", "AVIF", "HEIF", "GIF"}


def picture() -> Image.Image:
    y, x = np.mgrid[0:32, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 7, 3 * (x + y)], axis=-1).astype(np.uint8))


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if name == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [*DEFAULT, "AVIF"])
def test_each_format_is_known_by_its_first_bytes_and_gives_its_pixels(name: str) -> None:
    data = encode(picture(), name, **LOSSLESS.get(name, {}))
    assert sniff_format(data) == name
    error = np.abs(preprocess(data, SPEC, formats=[name]).astype(int) - np.asarray(picture()))
    assert error.mean() <= (6 if name in LOSSY else 0)


@pytest.mark.parametrize("name", ["QOI", "DDS", "DIB", "SGI", "PCX", "SPIDER", "TGA", "XBM", "MSP"])
def test_the_others_are_read_where_all_is_asked_for(name: str) -> None:
    mode = {"SPIDER": "F", "XBM": "1", "MSP": "1"}.get(name, "RGB")
    data = encode(picture().convert(mode), name)
    with pytest.raises(UnsupportedMedia, match="image 1 is none of the types that are read: JPEG, PNG"):
        preprocess(data, SPEC, index=1)
    if name == "SPIDER":  # opened, and refused for what it holds
        with pytest.raises(UnsupportedMedia, match="32-bit pixels"):
            preprocess(data, SPEC, formats=parse_formats("all"))
        return
    expected = np.asarray(picture().convert(mode).convert("RGB"))
    assert np.array_equal(preprocess(data, SPEC, formats=parse_formats("all")), expected)


@pytest.mark.parametrize("name", ["EPS", "ICO", "ICNS"])
def test_what_runs_programs_or_hides_its_size_is_never_read(name: str) -> None:
    data = encode(picture(), name)
    with pytest.raises(InvalidInput):
        preprocess(data, SPEC, formats=parse_formats("all"))
    with pytest.raises(ValueError, match=f"'{name}' is no format that is read"):
        parse_formats(name)


def test_names_are_taken_in_any_case_and_by_their_usual_endings() -> None:
    assert parse_formats("webp, jpg,Heic") == ("JPEG", "WEBP", "HEIF")
    assert set(parse_formats("all")) == set(ALL)
    assert default_formats() == DEFAULT
    with pytest.raises(ValueError, match="'' is no format"):
        parse_formats("JPEG,")


def test_a_format_that_is_not_allowed_is_unsupported() -> None:
    with pytest.raises(UnsupportedMedia, match=r"none of the types that are read: JPEG$"):
        preprocess(encode(picture(), "PNG"), SPEC, formats=["JPEG"])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_pgm_of_sixteen_bits_is_scaled_not_clipped(bits: int) -> None:
    top = 2**bits - 1
    values = np.linspace(0, top, 32 * 40).astype(">u2" if bits == 16 else "u1")
    pixels = preprocess(b"P5 40 32 %d\n" % top + values.tobytes(), SPEC)
    assert np.array_equal(pixels[..., 0].ravel(), values >> (bits - 8))


@pytest.mark.parametrize("name", ["AVIF", "WEBP", "GIF", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_counts(name: str) -> None:
    frames = [Image.new("RGB", (40, 32), color) for color in ("red", "lime", "blue")]
    data = encode(frames[0], name, save_all=True, append_images=frames[1:])
    assert np.abs(preprocess(data, SPEC, formats=ALL).astype(int) - (255, 0, 0)).max() <= 8


def test_of_several_heic_pictures_the_first_counts() -> None:
    heif = pillow_heif.from_pillow(Image.new("RGB", (40, 32), "red"))
    heif.add_from_pillow(Image.new("RGB", (40, 32), "blue"))
    buffer = io.BytesIO()
    heif.save(buffer)
    assert np.abs(preprocess(buffer.getvalue(), SPEC).astype(int) - (255, 0, 0)).max() <= 8


def test_a_heic_that_declares_less_than_it_holds_is_refused() -> None:
    data = encode(Image.new("RGB", (1024, 768)), "HEIF")
    declared = b"ispe" + bytes(4) + struct.pack(">II", 1024, 768)
    assert declared in data
    with pytest.raises(InvalidInput):
        preprocess(data.replace(declared, b"ispe" + bytes(4) + struct.pack(">II", 64, 64)), SPEC, max_pixels=5000)


def test_a_tiff_whose_tiles_exceed_the_limit_is_refused_before_it_is_decoded() -> None:
    data = encode(picture(), "TIFF", tiffinfo={65_000: 20_000, 65_001: 20_000})
    for private, tag in ((65_000, 322), (65_001, 323)):  # TileWidth, TileLength
        data = data.replace(struct.pack("<H", private), struct.pack("<H", tag))
    with pytest.raises(TooLarge, match="20000 x 20000 pixels"):
        preprocess(data, SPEC)
