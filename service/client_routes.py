"""What the routes are asked, as parameters, and what they answer, as results.

Letters: L all patches.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client_wire import Params, Pooling


@dataclass(frozen=True)
class Prediction:
    """`index`: the label's place among the bundle's."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Neighbour:
    """A row of the index. `score`: cosine similarity, -1 to 1. `columns`: its other values. `thumbnail`: where a small
    picture is, relative to the service; None where there is none.
    """

    path: str
    sha256: str
    score: float
    columns: dict[str, str | int | float | bool | None]
    thumbnail: str | None


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Three PNG files at the network's size. `grid`: rows and columns of patches. `mask`: [L], 1 = removed. `error`:
    [L], each patch's mean squared error in the units of the training target; `mean_error`: over the removed ones.
    """

    original: bytes
    masked: bytes
    reconstruction: bytes
    grid: tuple[int, int]
    mask: NDArray[np.int64]
    error: NDArray[np.float32]
    mean_error: float


@dataclass(frozen=True, eq=False)
class AnomalyMap:
    """Two PNG files at the network's size. `grid`: rows and columns of patches. `error`: [L], of each patch the mean
    squared error over the passes that hid it, in the units of the training target; `hidden`: [L], how many those were.
    `mean_error`, `max_error`: of all patches. `scale_max`: the error at which the colours of `heatmap` end.
    """

    original: bytes
    heatmap: bytes
    grid: tuple[int, int]
    error: NDArray[np.float32]
    hidden: NDArray[np.int64]
    mean_error: float
    max_error: float
    scale_max: float


def embed_params(pooling: Pooling | None, normalize: bool, keep: float, dtype: str) -> dict[str, str]:
    chosen = {} if pooling is None else {"pooling": pooling}
    return {**chosen, "normalize": str(normalize).lower(), "keep": str(keep), "dtype": dtype}


def mask_params(mask_ratio: float | None, mask: Sequence[int] | None, seed: int) -> dict[str, str]:
    params = {"seed": str(seed)}
    if mask_ratio is not None:
        params["mask_ratio"] = str(mask_ratio)
    if mask is not None:
        params["mask"] = ",".join(map(str, mask))
    return params


def anomaly_params(passes: int, mask_ratio: float | None, seed: int, scale_max: float | None) -> dict[str, str]:
    scale = {} if scale_max is None else {"scale_max": str(scale_max)}
    return {**mask_params(mask_ratio, None, seed), "passes": str(passes), **scale}


def search_params(k: int, filters: Iterable[str]) -> Params:
    """TypeError for a string, whose letters would be taken for filters."""
    if isinstance(filters, str):
        raise TypeError(f"give a list of filters, such as [{filters!r}]")
    return {"k": str(k), "filter": list(filters)}


def neighbours(answer: httpx.Response) -> list[list[Neighbour]]:
    return [[Neighbour(**row) for row in rows] for rows in answer.json()["results"]]


def predictions(answer: httpx.Response) -> list[list[Prediction]]:
    return [[Prediction(**prediction) for prediction in row] for row in answer.json()["predictions"]]


def reconstruction(answer: httpx.Response) -> Reconstruction:
    told = answer.json()
    rows, columns = told["grid"]
    return Reconstruction(
        **{name: b64decode(text) for name, text in told["images"].items()},
        grid=(rows, columns),
        mask=np.array(told["mask"], np.int64),
        error=np.array(told["error"], np.float32),
        mean_error=told["mean_error"],
    )


def anomaly_map(answer: httpx.Response) -> AnomalyMap:
    told = answer.json()
    rows, columns = told["grid"]
    return AnomalyMap(
        **{name: b64decode(text) for name, text in told["images"].items()},
        grid=(rows, columns),
        error=np.array(told["error"], np.float32),
        hidden=np.array(told["hidden"], np.int64),
        mean_error=told["mean_error"],
        max_error=told["max_error"],
        scale_max=told["scale_max"],
    )
