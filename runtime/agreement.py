"""How much two engines' outputs agree, image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def cosines(actual: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """[N]: the cosine between each image's output, flattened, and what it should be; 1 where both are 0."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (actual, expected))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)  # [N]
    dots = (a * b).sum(axis=1)
    cosine: NDArray[np.float64] = np.where(norms > 0, dots / np.where(norms > 0, norms, 1), (a == b).all(axis=1))
    return cosine
