"""Which image formats are read, and which one the first bytes promise.

Bytes from strangers go by default to common formats alone, whose decoders are widely used and fuzzed, and run no other
program (docs/decisions/0061-formats.md). The rest of what Pillow decodes by itself has to be asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from typing import Final

from PIL import Image, ImageFile, features

_Magic = tuple[int | None, ...]

# The bytes that a file of each format begins with; None: any byte. AVIF and HEIF are told apart by their brands.
_MAGIC: Final[dict[str, tuple[_Magic, ...]]] = {
    "JPEG": (tuple(b"\xff\xd8\xff"),),
    "PNG": (tuple(b"\x89PNG\r\n\x1a\n"),),
    "WEBP": ((*b"RIFF", None, None, None, None, *b"WEBP"),),
    "GIF": (tuple(b"GIF87a"), tuple(b"GIF89a")),
    "BMP": (tuple(b"BM"),),
    "TIFF": (tuple(b"II*\0"), tuple(b"MM\0*"), tuple(b"II+\0"), tuple(b"MM\0+")),
    "JPEG2000": (tuple(b"\0\0\0\x0cjP  \r\n\x87\n"), tuple(b"\xff\x4f\xff\x51\0")),
    "PPM": (tuple(b"P4"), tuple(b"P5"), tuple(b"P6")),  # those written in digits are read with the others below
}
_BRANDS: Final = {
    "AVIF": {b"avif", b"avis"},
    "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"},
}
# Not AVIF: the picture inside may be up to 16,384 x 16,384 pixels whatever the file declares, and a few kB are enough.
DEFAULT: Final = (*_MAGIC, "HEIF")

# What else Pillow decodes by itself, tried in this order. Left out: EPS, which starts Ghostscript; WMF, BUFR, GRIB,
# HDF5 and MPEG, which Pillow only recognises; ICO, ICNS, BLP and IPTC, which wrap a file whose size they do not tell.
_OTHERS: Final = (
    "QOI", "DDS", "DIB", "PSD", "SGI", "SUN", "PCX", "DCX", "FITS", "FLI", "FTEX", "GBR", "IM", "MCIDAS", "MSP",
    "PIXAR", "PPM", "XBM", "XPM", "XVTHUMB", "CUR", "PCD", "IMT", "SPIDER", "TGA",
)  # fmt: skip
ALL: Final = (*DEFAULT, "AVIF", *(name for name in _OTHERS if name not in DEFAULT))

_ALIASES: Final = {"JPG": "JPEG", "TIF": "TIFF", "HEIC": "HEIF", "JP2": "JPEG2000", "PGM": "PPM", "PBM": "PPM"}
_PARTS_OF_PILLOW: Final = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}  # that it may be built without


def parse_formats(text: str) -> tuple[str, ...]:
    """Names separated by commas, in any case, or `all` -> names of ALL that can be read here, in its order.

    ValueError for a name that is none of ALL, or that this installation cannot read.
    """
    if text.strip().lower() == "all":
        return tuple(filter(_installed, ALL))
    names = {part.strip().upper() for part in text.split(",")}
    names = {_ALIASES.get(name, name) for name in names}
    for name in sorted(names):
        if name not in ALL:
            raise ValueError(f"{name!r} is no format that is read; choose from {', '.join(ALL)}, or say all")
        if not _installed(name):
            missing = "pillow-heif: pip install -e '.[heif]'" if name == "HEIF" else "a Pillow that was built with it"
            raise ValueError(f"{name} needs {missing}")
    return tuple(name for name in ALL if name in names)


@cache
def default_formats() -> tuple[str, ...]:
    """Those of DEFAULT that can be read here: HEIF needs pillow-heif, some others a part of Pillow."""
    return tuple(filter(_installed, DEFAULT))


def _installed(name: str) -> bool:
    if name == "HEIF":
        return find_spec("pillow_heif") is not None
    part = _PARTS_OF_PILLOW.get(name)
    return part is None or bool(features.check(part))


def sniff_format(data: bytes) -> str | None:
    """The format, one of DEFAULT or AVIF, that the first bytes promise; None if none of them."""
    if data[4:8] == b"ftyp":
        return _sniff_brands(data)
    for name, magics in _MAGIC.items():
        for magic in magics:
            if len(data) >= len(magic) and all(want in (None, got) for want, got in zip(magic, data, strict=False)):
                return name
    return None


def _sniff_brands(data: bytes) -> str | None:
    """By ISO/IEC 14496-12, 4.3: a box's size, `ftyp`, the major brand, a version, and the compatible brands."""
    end = min(struct.unpack_from(">I", data)[0], len(data), 256)
    brands = {data[8:12], *(data[i : i + 4] for i in range(16, end, 4))}
    return next((name for name, known in _BRANDS.items() if brands & known), None)


def candidates(data: bytes, formats: Iterable[str]) -> list[str]:
    """The formats, of those allowed, that these bytes may be of, most likely first. Several only among rare ones."""
    allowed = set(formats)
    name = sniff_format(data)
    if name is not None:
        return [name] if name in allowed else []
    return [other for other in _OTHERS if other in allowed and _accepts(other, data)]


def _accepts(name: str, data: bytes) -> bool:
    """Whether Pillow's own look at the first bytes leaves the format possible."""
    Image.init()
    accept = Image.OPEN[name][1] if name in Image.OPEN else lambda _: False
    try:
        return accept is None or accept(data[:16]) is True
    except Exception:  # noqa: BLE001 - too few bytes for what it looks at
        return False


def open_as(name: str, data: bytes) -> ImageFile.ImageFile:
    """Read the header as that format. Raises whatever the decoder raises.

    Not Image.open: it holds the size against a limit of its own, which warns or raises by the process's settings.
    """
    if name == "HEIF":
        from pillow_heif import HeifImageFile  # not everybody has it

        opened: ImageFile.ImageFile = HeifImageFile(BytesIO(data), "")
        return opened
    Image.init()
    image: ImageFile.ImageFile = Image.OPEN[name][0](BytesIO(data), "")
    return image
