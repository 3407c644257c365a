"""Parquet that names files: each value a path or a URL, relative ones to the folder of the Parquet file."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

import pyarrow.parquet as pq

from sources.parquet import translated
from sources.urls import is_url, open_binary

_ROWS_PER_READ = 65_536


def listed_names(file: str, column: str) -> Iterator[str | None]:
    """Of every row. Raises SourceError where it cannot be read."""
    with translated(file), open_binary(file) as opened:
        for batch in pq.ParquetFile(opened).iter_batches(_ROWS_PER_READ, columns=[column], use_threads=False):
            yield from batch.column(0).to_pylist()


def resolved(name: str, folder: str) -> str:
    """Where the file lies that a list in `folder` names so."""
    if is_url(name):
        return name
    if not is_url(folder) or name.startswith("/"):
        return posixpath.normpath(posixpath.join(folder, name))
    scheme, _, path = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(path, name))}"


def listed_path(name: str, prefix: str) -> str:
    """The path of a row, of a list that is itself `prefix`: relative to the source's folder, or from the root."""
    return resolved(name, posixpath.dirname(prefix))
