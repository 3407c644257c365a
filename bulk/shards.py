"""Tar shards: every member that is named as an image is one, with what stands beside it under the same key."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from tarfile import TarFile, TarInfo
from typing import IO, cast

from bulk.columns import INT64, Columns, common, type_of
from bulk.content import WAITS_S, Data, not_read, too_large
from bulk.pieces import ColumnType, Piece, ReadOptions, Row, Scalar
from bundle.errors import InvalidInput, SourceError
from sources.files import IMAGE_SUFFIXES
from sources.stores import reason
from sources.tar import DAMAGE, MAX_LABEL_BYTES, opened_tar, split_key
from sources.urls import is_url

_LABELS = ("cls", "txt")
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_SAMPLES_LOOKED_AT = 32


@dataclass
class _Sample:
    """images: (member, content) in their order; texts: what there is of .cls, .txt and .json beside them."""

    images: list[tuple[str, Data]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)


def shard_columns(shards: Sequence[str], asked: tuple[str, ...] | None) -> Columns:
    """As the first samples have them: `label`, and what is asked for of .json. A damaged shard tells nothing.

    Raises SourceError for a shard that is not there or cannot be reached, and for what is asked for and not found.
    """
    samples = list(islice(_readable(shards), _SAMPLES_LOOKED_AT))
    columns = Columns()
    for name in ("label",) if asked is None else asked:
        kinds = [type_of(_values(sample, {name: None})[name]) for sample in samples]
        if known := [kind for kind in kinds if kind is not None]:
            columns[name] = common(known)
    return columns


def read_shard(piece: Piece, options: ReadOptions, columns: Mapping[str, ColumnType]) -> Iterator[Row]:
    """Every image, and a row named as the shard itself for the rest of one that cannot be read to its end."""
    seen = dict[str, int]()
    num_done = num_failures = 0
    while True:
        try:
            for sample in islice(_samples(piece.location, options.max_file_bytes, bool(columns)), num_done, None):
                values = _values(sample, columns)
                for member, data in sample.images:
                    seen[member] = again = seen.get(member, 0) + 1
                    name = member if again == 1 else f"{member}#{again}"  # tar keeps what was put in anew
                    yield Row(f"{piece.prefix}/{name}", data, values)
                num_done += 1
        except SourceError as e:
            if num_failures < len(WAITS_S) and is_url(piece.location) and _may_pass(e):
                time.sleep(WAITS_S[num_failures])
                num_failures += 1
                continue
            said, cause = f"what comes behind {num_done:,} samples of it cannot be read: {e}", e.__cause__
            if isinstance(cause, Exception) and not isinstance(cause, DAMAGE):
                yield Row(piece.prefix, not_read(piece.location, reason(cause), said))
            else:
                yield Row(piece.prefix, InvalidInput(said))
        return


def _readable(shards: Sequence[str]) -> Iterator[_Sample]:
    """The samples of all shards but for their images, as far as they are not damaged."""
    for shard in shards:
        try:
            yield from _samples(shard, 0, with_texts=True)
        except SourceError as e:
            if not isinstance(e.__cause__, DAMAGE) and e.__cause__ is not None:
                raise


def _may_pass(error: SourceError) -> bool:
    cause = error.__cause__
    return isinstance(cause, Exception) and not isinstance(cause, DAMAGE) and reason(cause).passing


def _samples(shard: str, max_bytes: int, with_texts: bool) -> Iterator[_Sample]:
    """By key; without texts, each image by itself. Raises SourceError where the shard cannot be read any further."""
    current, sample, first, found = "", _Sample(), "", False
    try:
        with opened_tar(shard) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every header that it has read
                key, extension = split_key(member.name)
                first = first or member.name
                if sample.images and (key != current or not with_texts):
                    yield sample
                if key != current or not with_texts:
                    current, sample = key, _Sample()
                if member.name.lower().endswith(IMAGE_SUFFIXES) and not member.isdir():
                    sample.images.append((member.name, _content(tar, member, max_bytes)))
                    found = True
                elif with_texts and member.isfile() and (kind := extension.lower()) in (*_LABELS, "json"):
                    sample.texts.setdefault(kind, _read(tar, member, MAX_LABEL_BYTES))
    except SourceError as e:
        if sample.images and isinstance(e.__cause__, DAMAGE):  # else it is read again
            yield sample
        raise
    if sample.images:
        yield sample
    if first and not found:
        raise SourceError(f"{shard} holds no images, but {first}")


def _content(tar: TarFile, member: TarInfo, max_bytes: int) -> Data:
    if not member.isfile():
        return InvalidInput(f"it is a link to {member.linkname}, and links within a shard are not followed")
    if member.size > max_bytes:
        return too_large(member.size, max_bytes)
    return _read(tar, member, member.size) or InvalidInput("the file is empty")


def _read(tar: TarFile, member: TarInfo, max_bytes: int) -> bytes:
    return cast("IO[bytes]", tar.extractfile(member)).read(max_bytes)


def _values(sample: _Sample, columns: Mapping[str, ColumnType | None]) -> dict[str, Scalar]:
    """label: what `.cls` holds, as a number where it is one, or else `.txt`; other columns: members of `.json`."""
    values = dict[str, Scalar]()
    document = _document(sample.texts.get("json", b"")) if set(columns) - {"label"} else {}
    for name, kind in columns.items():
        if name == "label":
            text = next((sample.texts[k] for k in _LABELS if k in sample.texts), b"").decode(errors="replace").strip()
            number = "cls" in sample.texts and kind != "string" and _NUMBER.fullmatch(text) and int(text) in INT64
            values[name] = int(text) if number else text or None
        else:
            values[name] = value if type_of(value := document.get(name)) is not None else None
    return values


def _document(text: bytes) -> dict[str, Scalar]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # the latter where it is nested too deeply
        return {}
    return document if isinstance(document, dict) else {}
