"""Labeled images: their files, what a service calls them, and how sure a share of them is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.client import Client
from sources import open_source


@dataclass(frozen=True)
class LabeledFiles:
    """files: encoded images; labels: i64 [N], places in `classes`."""

    files: list[bytes]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def at(self, places: NDArray[np.integer[Any]]) -> LabeledFiles:
        """Those at these places, in their order."""
        return LabeledFiles([self.files[place] for place in places], self.labels[places], self.classes)


def read_files(data: str, count: int | None = None, skip: int = 0) -> LabeledFiles:
    """`count` labeled images behind the first `skip`, or all of these. SystemExit if there are fewer, or none."""
    source = open_source(data)
    if source.classes is None:
        raise SystemExit(f"{data} has no labels; give a folder with one sub-folder per class, or Parquet with `label`")
    labeled = ((s.data, s.label) for s in source if isinstance(s.data, bytes) and isinstance(s.label, int))
    found = list(islice(labeled, skip, None if count is None else skip + count))
    if not found or (count is not None and len(found) < count):
        asked = "" if count is None else f", {skip + count} are asked for"
        raise SystemExit(f"{data} holds {skip + len(found)} labeled images{asked}")
    return LabeledFiles([data for data, _ in found], np.array([label for _, label in found], np.int64), source.classes)


def classified(client: Client, images: LabeledFiles, top_k: int) -> NDArray[np.bool_]:
    """[N, top_k]: whether the label that POST /classify gives in this place is the image's own, by its name."""
    answers = client.classify(images.files, top_k=top_k)
    own = [images.classes[label] for label in images.labels]
    return np.array([[each.label == name for each in row] for row, name in zip(answers, own, strict=True)])


def share(hits: NDArray[Any]) -> str:
    """The mean of 0 to 1 over images, with its standard error; of hits and misses, the binomial one."""
    return f"{hits.mean():.1%} ± {100 * hits.std() / len(hits) ** 0.5:.1f}"
