"""Parquet in the layout of Hugging Face `datasets`: a column `image` and, for classes, an integer column `label`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bundle.errors import SourceError
from sources.base import Sample, Source, label_index
from sources.stores import file_system, is_arrow
from sources.urls import file_name, is_url, open_binary

PARQUET_SUFFIXES = (".parquet",)
_ROWS_PER_READ = 256
_BUFFER_BYTES = 2**23  # of each column, so that no row group is held whole


class _Group(NamedTuple):
    """A row group: its file, its number there, and the number of the file's rows before it."""

    file: str
    number: int
    first_row: int


class ParquetSource(Source):
    """`image`: a struct with `bytes`, or plain binary. A chunk is a row group. Files are paths or URLs."""

    def __init__(self, name: str, files: tuple[str, ...]) -> None:
        self.name = name
        self._files = files
        self._groups, lengths = list[_Group](), list[int]()
        schemas = list[pa.Schema]()
        for file in files:
            metadata, schema = read_footer(file)
            _check_columns(file, schema, labeled="label" in (schemas or [schema])[0].names)
            schemas.append(schema)
            row = 0
            for i in range(metadata.num_row_groups):
                self._groups.append(_Group(file, i, row))
                lengths.append(metadata.row_group(i).num_rows)
                row += lengths[-1]
        if sum(lengths) == 0:
            raise SourceError(f"{files[0]} holds no rows")
        self.lengths = lengths
        self.classes = _class_names(schemas[0], files) if "label" in schemas[0].names else None

    def fingerprint(self) -> str:
        parts = [(file_name(group.file), group.number, n) for group, n in zip(self._groups, self.lengths, strict=True)]
        return hashlib.sha256(json.dumps([parts, self.classes]).encode()).hexdigest()

    def read(self, chunk: int) -> Iterator[Sample]:
        group = self._groups[chunk]
        columns = ["image", "label"] if self.classes is not None else ["image"]
        row, short_name = group.first_row, file_name(group.file)
        with translated(group.file), open_binary(group.file) as file:
            batches = pq.ParquetFile(file).iter_batches(_ROWS_PER_READ, row_groups=[group.number], columns=columns)
            for batch in batches:
                images = batch.column("image")
                # Not `field`, which knows nothing of a struct that is missing as a whole.
                data = pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images
                labels = batch.column("label").to_pylist() if self.classes is not None else [None] * len(data)
                for value, label in zip(data.to_pylist(), labels, strict=True):
                    name = f"{short_name}#{row}"
                    yield Sample(name, value or b"", self._known(label, name))
                    row += 1

    def _known(self, label: int | None, name: str) -> int | None:
        try:
            return label_index(label, self.classes or (), name)
        except ValueError as e:
            raise SourceError(str(e)) from e


def open_parquet(file: str) -> pq.ParquetFile:
    """To be read page by page, by Arrow itself where the store is its own. Raises what Arrow and the store raise."""
    opened: Any = file
    if is_url(file):
        fs, path = file_system(file)
        opened = fs.fs.open_input_file(path) if is_arrow(fs) else fs.open(path, "rb")
    return pq.ParquetFile(opened, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)


def read_footer(file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    """What the file says of its row groups and columns. Raises SourceError where it is none."""
    with translated(file), open_binary(file) as opened:
        parquet = pq.ParquetFile(opened)
        return parquet.metadata, parquet.schema_arrow


@contextmanager
def translated(file: str) -> Iterator[None]:
    """Arrow's errors, of a file that is damaged or none of its kind, as SourceError."""
    try:
        yield
    except (pa.ArrowException, OSError) as e:
        raise SourceError(f"{file}: not readable as Parquet: {e}") from e


def _check_columns(file: str, schema: pa.Schema, *, labeled: bool) -> None:
    for name in ("image", "label") if labeled else ("image",):
        if name not in schema.names:
            raise SourceError(f"{file} has no column '{name}'; its columns are {', '.join(schema.names)}")
    image = schema.field("image").type
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise SourceError(f"{file}: column 'image' must hold encoded images, as binary or a struct with bytes")
    if labeled and not pa.types.is_integer(schema.field("label").type):
        raise SourceError(f"{file}: column 'label' must hold integers, not {schema.field('label').type}")


def _class_names(schema: pa.Schema, files: tuple[str, ...]) -> tuple[str, ...]:
    """From the `huggingface` metadata; without it, the label values themselves."""
    metadata: dict[str, Any] = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = metadata.get("info", {}).get("features", {}).get("label", {}).get("names")
    if names:
        return tuple(names)
    highest = [_highest_label(file) for file in files]
    return tuple(str(i) for i in range(1 + max((h for h in highest if h is not None), default=-1)))


def _highest_label(file: str) -> int | None:
    with translated(file), open_binary(file) as opened:
        highest: int | None = pc.max(pq.read_table(opened, columns=["label"])["label"]).as_py()
        return highest
