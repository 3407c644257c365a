"""An index of variants of the page's samples, as bulk.index writes one, and the folder of their pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from bundle.vectors import INDEX_TABLE, VECTORS_KEY, IndexInfo, VectorSpec
from tests.servers import ROOT

_SAMPLES = ROOT / "service" / "static" / "samples"
SUBJECTS = ("cat", "coffee", "astronaut", "rocket", "galaxies")
NAMES = ("as it is", "mirrored", "closer", "darker", "grey", "naïve #5? 100%")  # what a name may hold is in the last

Found = tuple[str, float]  # path and score


@dataclass(frozen=True)
class SmallIndex:
    """`path`: of the index. `photos`: the folder that the rows' paths are below. `rows`: all but the vectors, which are
    in `vectors`, [N, D], of length 1.
    """

    path: Path
    photos: Path
    rows: list[dict[str, Any]]
    vectors: NDArray[np.float32]

    @property
    def settings(self) -> dict[str, str]:
        """Of a service that searches it and has its pictures."""
        return {"MAEVE_SEARCH_INDEX": str(self.path), "MAEVE_THUMBNAILS": str(self.photos)}

    def row(self, path: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["path"] == path)

    def nearest(self, vector: NDArray[np.float32]) -> list[Found]:
        """Of all rows, best first."""
        scores = self.vectors @ vector
        return [(self.rows[i]["path"], float(scores[i])) for i in np.argsort(-scores)]


def make_index(folder: Path, service: str, subjects: tuple[str, ...] = SUBJECTS) -> SmallIndex:
    """Of this service's vectors, with a column of every type."""
    photos = folder / "photos"
    rows: list[dict[str, Any]] = []
    for number, (path, image) in enumerate(_variants(subjects)):
        file = photos / path
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, quality=95)
        rows.append({
            "path": path,
            "sha256": sha256(file.read_bytes()).hexdigest(),
            "subject": file.parent.name,
            "year": 2015 + number % 6,
            "brightness": float(np.asarray(image.convert("L")).mean() / 255),
            "night": file.stem == "darker",
        })  # fmt: skip
    vectors = np.stack([vector_of(service, photos / row["path"]) for row in rows])  # [N, D]
    _write(folder / "index", service, rows, vectors)
    return SmallIndex(folder / "index", photos, rows, vectors)


def vector_of(service: str, photo: Path) -> NDArray[np.float32]:
    """[D], of length 1."""
    answer = httpx.post(f"{service}embed", content=photo.read_bytes(), trust_env=False).raise_for_status()
    return np.array(answer.json()["embeddings"][0], np.float32)


def _variants(subjects: tuple[str, ...]) -> Iterator[tuple[str, Image.Image]]:
    """Six of each sample, with their paths."""
    for subject in subjects:
        image = Image.open(_SAMPLES / f"{subject}.jpg").convert("RGB")
        width, height = image.size
        variants = (
            image,
            ImageOps.mirror(image),
            image.crop((width // 5, height // 5, width, height)),
            ImageEnhance.Brightness(image).enhance(0.4),
            ImageOps.grayscale(image).convert("RGB"),
            ImageOps.posterize(image, 2),
        )
        yield from ((f"{subject}/{name}.jpg", variant) for name, variant in zip(NAMES, variants, strict=True))


def _write(path: Path, service: str, rows: list[dict[str, Any]], vectors: NDArray[np.float32]) -> None:
    info = httpx.get(f"{service}info", trust_env=False).json()
    spec = VectorSpec(
        bundle=info["name"], digest=info["digest"], precision=info["runtime"]["precision"], pooling=info["pooling"],
        normalize=True, keep=1.0, dim=info["model"]["dim"], dtype="float32",
    )  # fmt: skip
    columns: dict[str, Any] = {name: pa.array([row[name] for row in rows]) for name in ("path", "sha256")}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    columns |= {name: pa.array([row[name] for row in rows]) for name in rows[0] if name not in columns}
    told = {VECTORS_KEY: IndexInfo(vectors=spec).model_dump_json()}
    lancedb.connect(path).create_table(INDEX_TABLE, pa.table(columns).replace_schema_metadata(told))
