"""The encoder's inputs that outputs are compared on: real images where there are some, else the bundle's golden ones.

Letters: N images, H x W pixels, C channels, K patches kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Preprocess
from bundle.store import Bundle
from export.images import find_images
from runtime.base import Arrays


def read_images(source: Path, spec: Preprocess, limit: int) -> NDArray[np.uint8]:
    """u8 [N, H, W, C], at most `limit`, evenly spread over a folder or an .npz file. ExportError as `find_images`."""
    found = find_images(source, source, spec)
    assert found is not None  # only a run may have left none
    count = len(found.pixels)
    return found.pixels[np.linspace(0, count - 1, min(count, limit)).astype(np.int64)]


def comparison_inputs(bundle: Bundle, images: NDArray[np.uint8] | None, ids: NDArray[np.int64]) -> Arrays:
    """{"images": u8 [N, H, W, C], "ids_keep": i64 [N, K]}; the golden ones bring their own patches."""
    if images is not None:
        return {"images": images, "ids_keep": np.ascontiguousarray(np.broadcast_to(ids, (len(images), len(ids))))}
    golden = bundle.golden()
    names = [tensor.name for tensor in bundle.manifest.graphs["encoder"].inputs]
    return {name: golden[f"encoder.in.{name}"] for name in names}
