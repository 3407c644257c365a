"""Where images come from, all named by one string: `open_source` and what it returns."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bundle.errors import SourceError
from sources.base import PACK_FILE, Data, Sample, Source
from sources.binaries import open_cifar, open_stl10
from sources.files import IMAGE_SUFFIXES, NPY_SUFFIXES, ImageFolder, Listing, NpyFolder, NpyRange
from sources.parquet import PARQUET_SUFFIXES, ParquetSource
from sources.tar import TAR_SUFFIXES, TarSource
from sources.urls import file_name, is_pattern, is_url, list_folder, location, spell_out, without_query

__all__ = ["Data", "NpyRange", "Sample", "Source", "location", "open_source", "other_split"]

_BINARIES: dict[str, Callable[[Path, str], Source]] = {"cifar": open_cifar, "stl10": open_stl10}
_BINARY = re.compile(rf"^({'|'.join(_BINARIES)}):(?!//)([^#]+)(?:#(.*))?$")


def open_source(data: str | Path, *, npy_range: NpyRange | None = None) -> Source:
    """What `data` names: a folder of images or of .npy arrays, Parquet, tar shards, `cifar:DIR`, `stl10:DIR#SPLIT`.

    Parquet and tar may be a file, a folder of them, or a pattern, by path or URL. npy_range: the values of arrays that
    become 0 and 255, for other types than uint8. Raises SourceError where there is no such thing.
    """
    text = location(data)
    if (binary := _BINARY.match(text)) is not None:
        scheme, folder, split = binary.groups()
        return _BINARIES[scheme](Path(folder), split or "train")
    if is_url(text):
        return _open_url(text)
    path = Path(text)
    if path.is_dir():
        return _open_folder(path, npy_range)
    if path.is_file():
        return _open_files(path.name, (text,), text)
    if is_pattern(text):
        return _open_files(path.parent.name or path.name, spell_out(text), text)
    raise SourceError(f"{text} is neither a folder nor a file; --data takes a folder, .parquet, .tar, or a URL")


def other_split(data: str | Path, **splits: str) -> str | None:
    """`cifar:DIR` or `stl10:DIR`, with #train or no split, at the split that is named for its kind; None for others.

    other_split("stl10:files", stl10="test") == "stl10:files#test"
    """
    binary = _BINARY.match(location(data))
    if binary is None or (binary[3] or "train") != "train" or binary[1] not in splits:
        return None
    return f"{binary[1]}:{binary[2]}#{splits[binary[1]]}"


def _open_url(url: str) -> Source:
    if is_pattern(url):
        return _open_files(file_name(url.rsplit("/", 1)[0]), spell_out(url), url)
    if without_query(url).endswith((*PARQUET_SUFFIXES, *TAR_SUFFIXES)):
        return _open_files(file_name(url), (url,), url)
    for suffixes in (PARQUET_SUFFIXES, TAR_SUFFIXES):
        if files := list_folder(url, suffixes):
            return _open_files(file_name(url), files, url)
    raise SourceError(f"{url} holds neither .parquet nor .tar files; images by URL come in tar shards")


def _open_files(name: str, files: tuple[str, ...], asked: str) -> Source:
    """By the ending of their names, which must be one for all."""
    if all(without_query(file).endswith(PARQUET_SUFFIXES) for file in files):
        return ParquetSource(name.removesuffix(".parquet"), files)
    if all(without_query(file).endswith(TAR_SUFFIXES) for file in files):
        return TarSource(name.split(".")[0] if name.endswith(TAR_SUFFIXES) else name, files)
    raise SourceError(f"{asked} is neither a folder of images nor .parquet or .tar files")


def _open_folder(root: Path, npy_range: NpyRange | None) -> Source:
    if (root / PACK_FILE).is_file():
        raise SourceError(f"{root} is packed already; train on it as it is")
    name = root.resolve().name
    for suffixes in (PARQUET_SUFFIXES, TAR_SUFFIXES):
        if files := list_folder(str(root), suffixes):
            return _open_files(name, files, str(root))
    if len(listing := Listing(root, IMAGE_SUFFIXES)):
        return ImageFolder(listing)
    if len(listing := Listing(root, NPY_SUFFIXES)):
        return NpyFolder(listing, npy_range)
    raise SourceError(f"{root} holds no images ({', '.join(IMAGE_SUFFIXES)}), nor .parquet, .tar or .npy files")
