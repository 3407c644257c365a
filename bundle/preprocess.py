"""From an encoded image to the network's uint8 pixels: ONE function for training's evaluation, the service and bulk.

Conventions: EXIF orientation is applied; transparency is laid over white; 16-bit grey is scaled to 8 bits; of an
animation the first frame counts; palettes, CMYK and the like are converted. Sizes are (height, width) in pixels,
arrays [H, W, C].
"""

from __future__ import annotations

import io
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin

from bundle.errors import InvalidInput, TooLarge, UnsupportedMedia
from bundle.manifest import Preprocess, Size

# 50 megapixels: the largest common cameras, and 150 MB once decoded to RGB.
MAX_PIXELS: Final = 50_000_000

MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's mode

# The formats that are read, with the bytes that a file of each begins with (None: any byte). Pillow reads dozens more,
# many of them old and rarely tested parsers: bytes from strangers go to these six alone.
_Magic = tuple[int | None, ...]
FORMATS: Final[dict[str, tuple[_Magic, ...]]] = {
    "JPEG": (tuple(b"\xff\xd8\xff"),),
    "PNG": (tuple(b"\x89PNG\r\n\x1a\n"),),
    "WEBP": ((*b"RIFF", None, None, None, None, *b"WEBP"),),
    "GIF": (tuple(b"GIF87a"), tuple(b"GIF89a")),
    "BMP": (tuple(b"BM"),),
    "TIFF": (tuple(b"II*\0"), tuple(b"MM\0*"), tuple(b"II+\0"), tuple(b"MM\0+")),
}

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# EXIF orientation -> what brings the image upright (Exif 2.32, tag 0x0112)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def preprocess(
    data: bytes, spec: Preprocess, *, channels: int = 3, max_pixels: int = MAX_PIXELS, index: int = 0
) -> NDArray[np.uint8]:
    """Decode an image and cut it to size: uint8 [H, W, C], contiguous, H and W as in `spec.crop`.

    `index`: the image's place in its request, for the errors. Raises what `decode_image` raises.
    """
    image = decode_image(data, channels=channels, max_pixels=max_pixels, target=spec.resize, index=index)
    return preprocess_image(image, spec)


def preprocess_image(image: Image.Image, spec: Preprocess) -> NDArray[np.uint8]:
    """Scale until the image covers `spec.resize`, keeping its aspect, and cut `spec.crop` from the centre.

    Returns uint8 [H, W, C]. The cut to `spec.resize` is made in the same step as the scaling, so no more pixels than
    those are ever computed: a strip of 1 x 50,000 pixels costs what a square costs. Then whole pixels are cut, see
    `center_crop`.
    """
    return np.ascontiguousarray(center_crop(_cover(image, spec), spec.crop))


def preprocess_array(pixels: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    """`preprocess_image` for pixels u8 [H, W, C] of any number of channels, each scaled by itself: u8 [H, W, C].

    With 1 or 3 channels the very values of `preprocess_image`. A fourth channel is no transparency here.
    """
    if pixels.shape[:2] == spec.resize:
        covering = pixels
    elif pixels.shape[2] == 3:
        covering = _cover(Image.fromarray(pixels), spec)
    else:
        planes = [_cover(Image.fromarray(np.ascontiguousarray(plane)), spec) for plane in np.moveaxis(pixels, 2, 0)]
        covering = np.concatenate(planes, axis=2)  # [H, W, C]
    return np.ascontiguousarray(center_crop(covering, spec.crop))


def _cover(image: Image.Image, spec: Preprocess) -> NDArray[np.uint8]:
    """The middle of the image at `spec.resize`: u8 [H, W, C]."""
    height, width = spec.resize
    scale = min(image.width / width, image.height / height)  # pixels of the image per pixel of the result
    # One of the two is 0, but for its rounding, which Pillow must not see below 0.
    left, top = max(0, image.width - width * scale) / 2, max(0, image.height - height * scale) / 2
    box = (left, top, image.width - left, image.height - top)
    resized = image.resize((width, height), _RESAMPLING[spec.interpolation], box=box)
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, -1)


def center_crop(pixels: NDArray[Any], size: Size) -> NDArray[Any]:
    """Cut `size` from the middle of [..., H, W, C]; a view. ValueError if the array is smaller.

    What cannot be halved is left over on the right and below. Cutting a pack's images with it gives exactly the pixels
    of `preprocess` with that pack's size as `resize`.
    """
    height, width = pixels.shape[-3:-1]
    if size[0] > height or size[1] > width:
        raise ValueError(f"cannot cut {size[0]} x {size[1]} pixels from {height} x {width}")
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return pixels[..., top : top + size[0], left : left + size[1], :]


def decode_image(
    data: bytes, *, channels: int, max_pixels: int = MAX_PIXELS, target: Size | None = None, index: int = 0
) -> Image.Image:
    """Decode to 1 (L), 3 (RGB) or 4 (RGBA, not laid over white) channels, upright.

    `max_pixels` is held against the header, before anything is decoded. With `target`, a JPEG may be decoded at a half,
    a quarter or an eighth of its size, never below twice `target`: much faster for photos, and as good once scaled.

    Errors: UnsupportedMedia, InvalidInput (empty, truncated, corrupt), TooLarge; each carries `index`.
    """
    if channels not in MODES:
        raise ValueError(f"channels must be one of {sorted(MODES)}, got {channels}")
    image = _open(data, max_pixels, index)
    try:
        if target is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            height, width = target if _orientation(image) < 5 else target[::-1]
            image.draft(None, (2 * width, 2 * height))
        image.load()
        upright = _UPRIGHT.get(_orientation(image))  # after load: a PNG may keep its EXIF behind the pixels
        pixels = image if upright is None else image.transpose(upright)
        return _convert(pixels, MODES[channels], index)
    except UnsupportedMedia:
        raise
    except Exception as e:  # decoders answer hostile bytes with errors of every type
        raise InvalidInput(f"image {index} is truncated or corrupt: {e}", index=index) from e


def image_size(data: bytes, *, index: int = 0) -> Size:
    """(height, width) in pixels, upright, from the header alone: nothing is decoded. Errors as `decode_image`."""
    image = _open(data, None, index)
    # Only a JPEG is sure to keep its EXIF before the pixels, so only there does reading it cost nothing.
    turned = isinstance(image, JpegImagePlugin.JpegImageFile) and _orientation(image) >= 5
    return (image.width, image.height) if turned else (image.height, image.width)


def _open(data: bytes, max_pixels: int | None, index: int) -> ImageFile.ImageFile:
    """Read the header alone, and hold the size that it declares against the limit."""
    if not data:
        raise InvalidInput(f"image {index} is empty", index=index)
    name = sniff_format(data)
    if name is None:
        raise UnsupportedMedia(f"image {index} is none of the types that are read: {', '.join(FORMATS)}", index=index)
    if name == "PNG" and data[12:16] == b"IHDR" and len(data) >= 24:
        # Pillow opens a PNG only up to its pixels, through chunks of any length; the size stands before them all.
        width, height = struct.unpack_from(">II", data, 16)
        _check_pixels(width, height, max_pixels, index)
    Image.init()
    # Not Image.open: it holds the size against a limit of its own, which warns or raises by the process's settings.
    opener, _ = Image.OPEN[name]
    try:
        image = opener(io.BytesIO(data), "")
    except Exception as e:  # as above
        raise InvalidInput(
            f"image {index} is no readable {name}: its header is broken or cut short", index=index
        ) from e
    _check_pixels(image.width, image.height, max_pixels, index)
    return image


def _check_pixels(width: int, height: int, max_pixels: int | None, index: int) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise TooLarge(f"image {index} has {width} x {height} pixels, more than {max_pixels} in all", index=index)


def sniff_format(data: bytes) -> str | None:
    """The format, one of FORMATS, that the first bytes promise; None if none of them."""
    for name, magics in FORMATS.items():
        for magic in magics:
            if len(data) >= len(magic) and all(want in (None, got) for want, got in zip(magic, data, strict=False)):
                return name
    return None


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where broken EXIF hides it: the pixels are still good."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - as above
        return 1


def _convert(image: Image.Image, mode: str, index: int) -> Image.Image:
    if image.mode.startswith("I;16"):
        # convert("L") would clip at 255 and turn nearly every 16-bit picture white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UnsupportedMedia(
            f"image {index} has 32-bit pixels, whose range is not known; convert it to 8 or 16 bits", index=index
        )
    if image.has_transparency_data and mode != "RGBA":
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)
