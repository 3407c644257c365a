"""Where encoded images come from: a folder of files, or Parquet in the layout of Hugging Face `datasets`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.errors import TrainingError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_ROWS_PER_READ = 512


class Sample(NamedTuple):
    """name: for reports; data: the encoded image; label: an index into `classes`, None where there is none."""

    name: str
    data: bytes
    label: int | None


class Source(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """None: unlabeled."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...


@dataclass(frozen=True)
class FolderSource:
    """Image files below a folder, sorted. With sub-folders and no loose image, each sub-folder is a class."""

    name: str
    root: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Sample]:
        index = {name: i for i, name in enumerate(self.classes or ())}
        for file in self.files:
            relative = file.relative_to(self.root)
            yield Sample(str(relative), file.read_bytes(), index.get(relative.parts[0]))


@dataclass(frozen=True)
class ParquetSource:
    """A column `image` (struct with `bytes`, or plain binary) and, optionally, an integer column `label`."""

    name: str
    files: tuple[Path, ...]
    num_rows: int
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[Sample]:
        columns = ["image", "label"] if self.classes is not None else ["image"]
        for file in self.files:
            row = 0
            for batch in pq.ParquetFile(file).iter_batches(_ROWS_PER_READ, columns=columns):
                images = batch.column("image")
                data = images.field("bytes") if pa.types.is_struct(images.type) else images
                labels = batch.column("label").to_pylist() if self.classes is not None else [None] * len(data)
                for value, label in zip(data, labels, strict=True):
                    name = f"{file.name}#{row}"
                    yield Sample(name, value.as_py() or b"", self._known(label, name))
                    row += 1

    def _known(self, label: int | None, name: str) -> int | None:
        """-1 is how data sets with hidden labels say that there is none."""
        if label is None or label == -1:
            return None
        if self.classes is None or not 0 <= label < len(self.classes):
            raise TrainingError(f"{name} has label {label}, but there are {len(self.classes or ())} class names")
        return label


def open_source(path: Path) -> Source:
    """A folder of images, a Parquet file, or a folder of Parquet files. Raises TrainingError where there is neither."""
    if path.is_file() and path.suffix == ".parquet":
        return _open_parquet(path.stem, (path,))
    if not path.is_dir():
        raise TrainingError(f"{path} is neither a folder of images nor a .parquet file")
    if parquet := tuple(sorted(path.glob("*.parquet"))):
        return _open_parquet(path.name, parquet)
    return _open_folder(path)


def _open_folder(root: Path) -> FolderSource:
    # Links are followed, other than by rglob: a subset of a data set is often a folder of links to its classes.
    paths = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    files = tuple(sorted(p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()))
    if not files:
        raise TrainingError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}) and no .parquet files")
    tops = [f.relative_to(root).parts for f in files]
    labeled = all(len(parts) > 1 for parts in tops)
    classes = tuple(sorted({parts[0] for parts in tops})) if labeled else None
    return FolderSource(root.resolve().name, root, files, classes if classes and len(classes) > 1 else None)


def _open_parquet(name: str, files: tuple[Path, ...]) -> ParquetSource:
    try:
        schemas = [pq.read_schema(f) for f in files]
        num_rows = sum(pq.read_metadata(f).num_rows for f in files)
    except (pa.ArrowException, OSError) as e:
        raise TrainingError(f"{files[0].parent}: not readable as Parquet: {e}") from e
    labeled = "label" in schemas[0].names
    for file, schema in zip(files, schemas, strict=True):
        _check_columns(file, schema, labeled=labeled)
    if num_rows == 0:
        raise TrainingError(f"{files[0]} holds no rows")
    return ParquetSource(name, files, num_rows, _class_names(schemas[0], files) if labeled else None)


def _check_columns(file: Path, schema: pa.Schema, *, labeled: bool) -> None:
    for name in ("image", "label") if labeled else ("image",):
        if name not in schema.names:
            raise TrainingError(f"{file} has no column '{name}'; its columns are {', '.join(schema.names)}")
    image = schema.field("image").type
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise TrainingError(f"{file}: column 'image' must hold encoded images, as binary or a struct with bytes")
    if labeled and not pa.types.is_integer(schema.field("label").type):
        raise TrainingError(f"{file}: column 'label' must hold integers, not {schema.field('label').type}")


def _class_names(schema: pa.Schema, files: tuple[Path, ...]) -> tuple[str, ...]:
    """From the `huggingface` metadata; without it, the label values themselves."""
    metadata: dict[str, Any] = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = metadata.get("info", {}).get("features", {}).get("label", {}).get("names")
    if names:
        return tuple(names)
    highest = [pc.max(pq.read_table(f, columns=["label"])["label"]).as_py() for f in files]
    return tuple(str(i) for i in range(1 + max((h for h in highest if h is not None), default=-1)))
