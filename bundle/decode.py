"""From an encoded image to its pixels: limits from the header, then libjpeg-turbo for JPEGs and Pillow for the rest.

Conventions: transparency is laid over white; 16-bit grey is scaled to 8 bits; of an animation the first frame counts;
palettes, CMYK and the like are converted. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin

from bundle.errors import InvalidInput, TooLarge, UnsupportedMedia
from bundle.formats import candidates, default_formats, open_as
from bundle.manifest import Size

# 50 megapixels: the largest common cameras, and 150 MB once decoded to RGB.
MAX_PIXELS: Final = 50_000_000

MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's mode

# Eighths of its size at which a JPEG may be decoded, and how much of the target each must cover. libjpeg-turbo has fast
# code for powers of 2 alone. A half may be enlarged a little: what it lacks, the bicubic reduction damps anyway.
_EIGHTHS: Final = {1: 1.0, 2: 1.0, 4: 5 / 6}

# How colour may be stored for libjpeg to give it, at a part of the size, the resolution that the brightness has: at all
# or half of it in both directions. Stored otherwise (4:2:2, 4:1:1), it has half of that or less.
_WHOLE_COLOUR: Final = ("444", "420", "Gray")

# Every scan of a progressive JPEG goes over all of its pixels, and needs hardly a byte for it: without a bound, a file
# of a few kB takes minutes. Encoders make about ten.
_MAX_SCANS: Final = 64
_SCAN = b"\xff\xda"
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan: neither a stuffed byte nor a restart


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels, not yet upright.

    image: as stored. extent: (height, width) of the picture in pixels of `image`; where a JPEG was decoded at a part of
    its size, the last row and column may reach beyond the picture by a part of a pixel. orientation: EXIF's, 1 to 8.
    full_size: of the file, as stored. is_whole_jpeg: whether it was a JPEG, decoded at its full size.
    """

    image: Image.Image
    extent: tuple[float, float]
    orientation: int
    full_size: Size
    is_whole_jpeg: bool

    @property
    def size(self) -> Size:
        """The file's, upright."""
        return upright_size(self.full_size, self.orientation)


def upright_size(size: Size, orientation: int) -> Size:
    """(height, width) as stored <-> upright: orientations from 5 on lie on their side (Exif 2.32, tag 0x0112)."""
    return size if orientation < 5 else (size[1], size[0])


def whole_picture(image: Image.Image) -> Picture:
    """An upright image that was not decoded here."""
    size = (image.height, image.width)
    return Picture(image, size, 1, size, is_whole_jpeg=False)


def decode_image(
    data: bytes,
    *,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    target: Size | None = None,
    formats: Sequence[str] | None = None,
    index: int = 0,
) -> Picture:
    """Decode to 1 (L), 3 (RGB) or 4 (RGBA, not laid over white) channels.

    `max_pixels` is held against the header, before anything is decoded. With `target`, a JPEG may be decoded at a part
    of its size that still covers `target`, or nearly: much faster for photos. `formats`: those allowed, of
    `bundle.formats.ALL`; None is its default ones.

    Errors: UnsupportedMedia, InvalidInput (empty, truncated, corrupt), TooLarge; each carries `index`.
    """
    if channels not in MODES:
        raise ValueError(f"channels must be one of {sorted(MODES)}, got {channels}")
    names = _candidates(data, formats, index)
    if names == ["JPEG"]:
        if data.count(_SCAN) > _MAX_SCANS and _num_scans(data) > _MAX_SCANS:
            raise InvalidInput(f"image {index} is a JPEG of more than {_MAX_SCANS} scans", index=index)
        picture = _decode_jpeg(data, channels, max_pixels, target, index)
        if picture is not None:
            return picture
    image = _open(data, names, max_pixels, index)
    full_size = (image.height, image.width)
    extent: tuple[float, float] = full_size
    try:
        is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
        if target is not None and is_jpeg:
            height, width = upright_size(target, _orientation(image))
            reduced = image.draft(None, (width, height))
            extent = extent if reduced is None else (reduced[1][3], reduced[1][2])
        image.load()
        if not is_jpeg and (image.height, image.width) != full_size:  # a header that lied
            _check_pixels(image.width, image.height, max_pixels, index)
            full_size = extent = (image.height, image.width)
        orientation = _orientation(image)  # after load: a PNG may keep its EXIF behind the pixels
        is_whole = is_jpeg and extent == full_size
        return Picture(_convert(image, MODES[channels], index), extent, orientation, full_size, is_whole)
    except InvalidInput:
        raise
    except Exception as e:  # decoders answer hostile bytes with errors of every type
        raise InvalidInput(f"image {index} is truncated or corrupt: {e}", index=index) from e


def image_size(data: bytes, *, formats: Sequence[str] | None = None, index: int = 0) -> Size:
    """(height, width) in pixels, upright, from the header alone: nothing is decoded. Errors as `decode_image`."""
    image = _open(data, _candidates(data, formats, index), None, index)
    # Only a JPEG is sure to keep its EXIF before the pixels, so only there does reading it cost nothing.
    orientation = _orientation(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else 1
    return upright_size((image.height, image.width), orientation)


def _decode_jpeg(data: bytes, channels: int, max_pixels: int, target: Size | None, index: int) -> Picture | None:
    """By libjpeg-turbo directly, with less around it than in Pillow; the same pixels at the same part of the size.

    None where it finds anything to object to, a warning too: what becomes of such a file is Pillow's to say.
    """
    try:
        height, width, colorspace, subsampling = simplejpeg.decode_jpeg_header(data)
        if colorspace not in ("YCbCr", "RGB", "Gray"):
            return None
        _check_pixels(width, height, max_pixels, index)
        # Pillow parses EXIF, but its look at a file costs a tenth of a small picture: only where there is any.
        orientation = _orientation(open_as("JPEG", data)) if _has_app1(data) else 1
        eighths = 8
        if target is not None:
            times = 1 if subsampling in _WHOLE_COLOUR else 2
            eighths = _eighths((height, width), upright_size(target, orientation), times)
        as_grey = channels == 1 or colorspace == "Gray"
        pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if as_grey else "RGB",
            min_height=-(-height * eighths // 8),
            min_width=-(-width * eighths // 8),
        )
    except TooLarge:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, Pillow finds out and says it
        return None
    image = Image.fromarray(pixels[..., 0] if as_grey else pixels)
    extent = (height * eighths / 8, width * eighths / 8)
    if image.mode != MODES[channels]:  # else it would be copied
        image = image.convert(MODES[channels])
    return Picture(image, extent, orientation, (height, width), is_whole_jpeg=eighths == 8)


def _eighths(size: Size, target: Size, times: int) -> int:
    """The smallest part of the picture that covers enough of `target`, that many times.

    8 for less than 8 pixels, where two parts may give the same size.
    """
    scale = min(size[0] / target[0], size[1] / target[1]) / times
    return next((part for part, cover in _EIGHTHS.items() if part * scale / 8 >= cover and max(size) >= 8), 8)


def _num_scans(data: bytes) -> int:
    """Of a JPEG, up to the end of its first picture: what cameras put behind it, a film for one, is not looked at."""
    place, scans = 2, 0
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xD9:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
        if marker == 0xDA:
            scans += 1
            following = _MARKER.search(data, place)
            if following is None:
                break
            place = following.start()
    return scans


def _has_app1(data: bytes) -> bool:
    """Whether the markers before a JPEG's pixels hold what EXIF may be in; True where they cannot be followed."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xDA:  # the pixels begin
            return False
        if marker == 0xE1 or not 0xC0 <= marker < 0xFF or 0xD0 <= marker <= 0xD9:
            return True
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return True


def _candidates(data: bytes, formats: Sequence[str] | None, index: int) -> list[str]:
    """The formats to try. UnsupportedMedia if there is none."""
    if not data:
        raise InvalidInput(f"image {index} is empty", index=index)
    allowed = default_formats() if formats is None else formats
    names = candidates(data, allowed)
    if not names:
        raise UnsupportedMedia(f"image {index} is none of the types that are read: {', '.join(allowed)}", index=index)
    return names


def _open(data: bytes, names: Sequence[str], max_pixels: int | None, index: int) -> ImageFile.ImageFile:
    """Read the header alone, and hold the size that it declares against the limit."""
    if names == ["PNG"] and data[12:16] == b"IHDR" and len(data) >= 24:
        # Pillow opens a PNG only up to its pixels, through chunks of any length; the size stands before them all.
        width, height = struct.unpack_from(">II", data, 16)
        _check_pixels(width, height, max_pixels, index)
    failure = None
    for name in names:
        try:
            image = open_as(name, data)
        except Exception as e:  # noqa: BLE001 - as above; the next may know it
            failure = e
            continue
        _check_pixels(image.width, image.height, max_pixels, index)
        if tags := getattr(image, "tag_v2", None):  # a TIFF is decoded tile by tile, and a tile may exceed the picture
            _check_pixels(_tag(tags, ExifTags.Base.TileWidth), _tag(tags, ExifTags.Base.TileLength), max_pixels, index)
        return image
    message = f"image {index} is no readable {' or '.join(names)}: its header is broken or cut short"
    raise InvalidInput(message, index=index) from failure


def _tag(tags: object, tag: int) -> int:
    value = tags.get(tag, 0)  # type: ignore[attr-defined]
    return value if isinstance(value, int) else 0


def _check_pixels(width: int, height: int, max_pixels: int | None, index: int) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise TooLarge(f"image {index} has {width} x {height} pixels, more than {max_pixels} in all", index=index)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where broken EXIF hides it: the pixels are still good."""
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - as above
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _convert(image: Image.Image, mode: str, index: int) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # whose range is 16 bits too
        # convert("L") would clip at 255 and turn nearly every 16-bit picture white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UnsupportedMedia(
            f"image {index} has 32-bit pixels, whose range is not known; convert it to 8 or 16 bits", index=index
        )
    if image.has_transparency_data and mode != "RGBA":
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == mode else image.convert(mode)
