"""Reconstructions over time: a run's pictures as one strip, the images once and what each epoch made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.pages.record import Record
from training.pages.render import Block, Drawing, Group, Text, missing, picture

BORROWED = (
    "Where the target is normalized, hidden patches have the brightness and contrast of the original: the network "
    "predicts their pattern alone, as in the paper."
)
_MAX_PICTURES = 6
_COLUMNS, _GAP = 3, 4  # of a run's picture, and the pixels between two of them: as training.picture lays it out
_COLUMN_PIXELS = 192  # a column's width in the page's file, at most


def reconstructions(record: Record) -> list[Block]:
    """The first, the last and some between, beside the images and what of them is visible."""
    files = record.pictures()
    if not files:
        return [missing("There are no pictures of reconstructions yet.")]
    places = np.unique(np.linspace(0, len(files) - 1, min(_MAX_PICTURES, len(files))).round().astype(int))
    shown, unreadable = dict[str, Image.Image](), list[str]()
    for file in (files[i] for i in places):
        found = open_picture(file)
        if found is None:
            unreadable.append(file.name)
        else:
            shown[file.stem.removeprefix("epoch-").lstrip("0") or "0"] = found
    told = f"Each row is an image; the same patches of it are hidden every time. {BORROWED}"
    strip = [Group(_strip(shown), "strip", "Reconstructions over time")] if shown else []
    return [Text(told, "soft"), *strip, *(missing(f"{name} cannot be read.") for name in unreadable)]


def _strip(shown: dict[str, Image.Image]) -> list[Drawing]:
    """shown: epoch -> picture."""
    last = list(shown.values())[-1]
    columns = [("image", "The images that are shown, one below the other", _column(last, 0)),
               ("visible", "What the network sees of each image", _column(last, 1))]  # fmt: skip
    for epoch, sheet in shown.items():
        alt = f"Reconstructions after epoch {epoch}: what the network makes of what it sees, image by image"
        columns.append((f"epoch {epoch}", alt, _column(sheet, 2)))
    return [picture(image, alt, caption, max_width=_COLUMN_PIXELS) for caption, alt, image in columns]


def _column(sheet: Image.Image, index: int) -> Image.Image:
    """The index-th of the columns: 0 the images, 1 their visible parts, 2 the reconstructions."""
    width = max(1, (sheet.width - (_COLUMNS - 1) * _GAP) // _COLUMNS)
    left = index * (width + _GAP)
    return sheet.crop((left, 0, left + width, sheet.height))


def open_picture(file: Path) -> Image.Image | None:
    """None for one that is not there or cannot be read."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
