"""The encoder's inputs that outputs are compared on: real images where there are some, else the bundle's golden ones.

Letters: N images, H x W pixels, C channels, K patches kept.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidInput
from bundle.manifest import GOLDEN_FILE, Manifest
from bundle.preprocess import preprocess
from bundle.store import Bundle
from export.errors import ExportError
from runtime.base import Arrays

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_images(source: Path, manifest: Manifest, limit: int) -> NDArray[np.uint8]:
    """u8 [N, H, W, C], at most `limit`: the first ones of an .npz's array `images`, or of a folder, by name.

    A folder is searched at any depth, and its images are cut to size as the service cuts them; ones that cannot be read
    are passed over. ExportError if there are none, or if an array is not of the bundle's images.
    """
    if source.is_dir():
        return _from_folder(source, manifest, limit)
    size = (*manifest.model.image_size, manifest.model.channels)
    try:
        with np.load(source, allow_pickle=False) as arrays:
            images: NDArray[Any] = arrays["images"][:limit]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as e:
        raise ExportError(f"{source} is neither a folder of images nor an .npz with an array `images`: {e}") from e
    if images.dtype != np.uint8 or images.shape[1:] != size or not len(images):
        wanted = ", ".join(map(str, size))
        raise ExportError(f"{source}: images must be uint8 [N, {wanted}], got {images.dtype} {list(images.shape)}")
    return np.ascontiguousarray(images)


def comparison_inputs(bundle: Bundle, images: NDArray[np.uint8] | None, ids: NDArray[np.int64]) -> Arrays:
    """{"images": u8 [N, H, W, C], "ids_keep": i64 [N, K]}; the golden ones bring their own patches."""
    if images is not None:
        return {"images": images, "ids_keep": np.ascontiguousarray(np.broadcast_to(ids, (len(images), len(ids))))}
    golden = bundle.golden()
    names = [tensor.name for tensor in bundle.manifest.graphs["encoder"].inputs]
    try:
        return {name: golden[f"encoder.in.{name}"] for name in names}
    except KeyError as e:
        raise ExportError(f"{bundle.path}: {GOLDEN_FILE} has no {e}; export it again, or give --images") from e


def _from_folder(folder: Path, manifest: Manifest, limit: int) -> NDArray[np.uint8]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
    images: list[NDArray[np.uint8]] = []
    for file in files:
        try:
            images.append(preprocess(file.read_bytes(), manifest.preprocess, channels=manifest.model.channels))
        except (InvalidInput, OSError):
            continue
        if len(images) == limit:
            break
    if not images:
        raise ExportError(f"{folder} holds no image that can be read; give a folder of JPEG, PNG or the like")
    return np.stack(images)
