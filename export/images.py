"""Real images to calibrate by and to compare on: those that a pre-training run left, a folder, or an .npz file.

Letters: n images, H x W pixels as the network takes them, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bundle.arrays import read_npz
from bundle.decode import MODES
from bundle.errors import InvalidInput
from bundle.manifest import Preprocess
from bundle.preprocess import preprocess
from export.errors import ExportError

SAMPLES_FILE: Final = "samples.npz"  # training.pretrain's, in the run's folder
MAX_IMAGES: Final = 256
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_MAX_PIXELS = 500_000_000  # one's own files may be larger than what a service accepts from strangers


@dataclass(frozen=True, eq=False)
class RealImages:
    """pixels: u8 [n, H, W, C], n >= 1; num_unreadable: files that were passed over."""

    source: Path
    pixels: NDArray[np.uint8]
    num_unreadable: int = 0


def find_images(given: Path | None, run: Path, spec: Preprocess) -> RealImages | None:
    """From `given`, a folder or an .npz file, else from what the run left; None where that is nothing.

    ExportError for a place without readable images, or with arrays that are not the network's.
    """
    if given is None:
        samples = run / SAMPLES_FILE
        return _read_npz(samples, spec) if samples.is_file() else None
    if given.is_dir():
        return _read_folder(given, spec)
    if given.suffix == ".npz" and given.is_file():
        return _read_npz(given, spec)
    raise ExportError(f"--images {given} is neither a folder nor an .npz file")


def _read_npz(path: Path, spec: Preprocess) -> RealImages:
    channels = len(spec.mean)
    try:
        pixels = read_npz(path, "images")["images"]
    except KeyError as e:
        raise ExportError(f"{path} has no array called images; give another place with --images") from e
    except ValueError as e:
        raise ExportError(f"{path} cannot be read: {e}; give another place with --images") from e
    wanted = f"uint8 [n, {spec.crop[0]}, {spec.crop[1]}, {channels}]"
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (*spec.crop, channels) or not len(pixels):
        raise ExportError(
            f"{path} holds {pixels.dtype} {list(pixels.shape)}, the network takes {wanted}; "
            "give other images with --images"
        )
    return RealImages(path, pixels[_spread(len(pixels))])


def _read_folder(folder: Path, spec: Preprocess) -> RealImages:
    channels = len(spec.mean)
    if channels not in MODES:
        raise ExportError(f"images have 1, 3 or 4 channels, the network {channels}; give --images an .npz file")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    pixels, num_unreadable = [], 0
    for i in _spread(len(files)):
        try:
            pixels.append(preprocess(files[i].read_bytes(), spec, channels=channels, max_pixels=_MAX_PIXELS))
        except (InvalidInput, OSError):
            num_unreadable += 1
    if not pixels:
        found = f"{num_unreadable} files that cannot be read and no other" if files else "no"
        raise ExportError(f"--images {folder} holds {found} images of {', '.join(sorted(SUFFIXES))}")
    return RealImages(folder, np.stack(pixels), num_unreadable)


def _spread(count: int) -> NDArray[np.int64]:
    """Up to MAX_IMAGES of so many places, evenly: neighbours in a folder are often of one class."""
    return np.linspace(0, count - 1, min(count, MAX_IMAGES)).astype(np.int64)
