"""From an encoded image to the network's uint8 pixels: ONE function for training's evaluation, the service and bulk.

Conventions: those of `bundle.decode`; EXIF orientation is applied. Sizes are (height, width) in pixels, arrays
[H, W, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bundle.decode import MAX_PIXELS, Picture, decode_image, upright_size, whole_picture
from bundle.manifest import Preprocess, Size

_RESAMPLING: Final = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# From this reduction on, Pillow's HAMMING stands in for the bicubic where a JPEG was decoded whole, because no part of
# it was enough: half as many taps, and hardly less sharp (docs/decisions/0060-decoding.md).
_HAMMING_FROM: Final = 4 / 3

# EXIF orientation -> what brings the image upright (Exif 2.32, tag 0x0112)
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def preprocess(
    data: bytes,
    spec: Preprocess,
    *,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] | None = None,
    index: int = 0,
) -> NDArray[np.uint8]:
    """Decode an image and cut it to size: uint8 [H, W, C], contiguous, H and W as in `spec.crop`.

    `formats`: those allowed, None for the default ones; `index`: the image's place in its request, for the errors.
    Raises what `decode_image` raises.
    """
    picture = decode_image(
        data, channels=channels, max_pixels=max_pixels, target=spec.resize, formats=formats, index=index
    )
    return preprocess_picture(picture, spec)


def preprocess_picture(picture: Picture, spec: Preprocess) -> NDArray[np.uint8]:
    """Scale until the picture covers `spec.resize`, keeping its aspect, and cut `spec.crop` from the centre.

    Returns uint8 [H, W, C], upright. The cut to `spec.resize` is made in the same step as the scaling, so no more
    pixels than those are ever computed: a strip of 1 x 50,000 pixels costs what a square costs. Then whole pixels are
    cut, see `center_crop`.
    """
    return np.ascontiguousarray(center_crop(_cover(picture, spec), spec.crop))


def preprocess_image(image: Image.Image, spec: Preprocess) -> NDArray[np.uint8]:
    """`preprocess_picture` for an upright image."""
    return preprocess_picture(whole_picture(image), spec)


def preprocess_array(pixels: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    """`preprocess_image` for pixels u8 [H, W, C] of any number of channels, each scaled by itself: u8 [H, W, C].

    With 1 or 3 channels the very values of `preprocess_image`. A fourth channel is no transparency here.
    """
    if pixels.shape[:2] == spec.resize:
        covering = pixels
    elif pixels.shape[2] == 3:
        covering = _cover(whole_picture(Image.fromarray(pixels)), spec)
    else:
        planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, 2, 0))
        covering = np.concatenate([_cover(whole_picture(plane), spec) for plane in planes], axis=2)  # [H, W, C]
    return np.ascontiguousarray(center_crop(covering, spec.crop))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as it is to be looked at; `orientation`: EXIF's, 1 to 8."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _cover(picture: Picture, spec: Preprocess) -> NDArray[np.uint8]:
    """The middle of the picture at `spec.resize`, upright: u8 [H, W, C]. Turned last, when it is small."""
    height, width = upright_size(spec.resize, picture.orientation)
    rows, columns = picture.extent
    scale = min(columns / width, rows / height)  # pixels of the image per pixel of the result
    # One of the two is 0, but for its rounding, which Pillow must not see below 0.
    left, top = max(0, columns - width * scale) / 2, max(0, rows - height * scale) / 2
    box = (left, top, columns - left, rows - top)
    image = picture.image.resize((width, height), _resampling(picture, spec), box=box)
    return np.asarray(upright(image, picture.orientation), dtype=np.uint8).reshape(*spec.resize, -1)


def _resampling(picture: Picture, spec: Preprocess) -> Image.Resampling:
    reduction = min(side / wanted for side, wanted in zip(picture.size, spec.resize, strict=True))
    if spec.interpolation == "bicubic" and picture.is_whole_jpeg and reduction >= _HAMMING_FROM:
        return Image.Resampling.HAMMING
    return _RESAMPLING[spec.interpolation]


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
