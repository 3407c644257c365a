"""WebDataset shards: tar files whose members share a key, as `0001.jpg` and `0001.cls`.

The key of a member is its path up to the first dot of its name; members of one key stand together. Of each key, the
member with an image's extension is the sample. Its label is, in this order, a number in `.cls`, the `label` of
`.json`, or what `.txt` holds: a number, or a class's name.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from tarfile import EmptyHeaderError, ReadError, TruncatedHeaderError  # type: ignore[attr-defined]
from typing import IO, Self, cast

from bundle.errors import SourceError
from sources.base import Sample, Source
from sources.files import IMAGE_SUFFIXES
from sources.stores import reason
from sources.urls import file_name, is_url, open_binary, without_query

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
_LABELS = ("cls", "json", "txt")
DAMAGE = (tarfile.TarError, EOFError, BadGzipFile, zlib.error)
_BUFFER_BYTES = 2**20
MAX_LABEL_BYTES = 2**20  # what .json and .txt hold beside a label stays unread beyond


class TarSource(Source):
    """Shards by path or URL, each a chunk; a shard is read as a stream. Classes are known once all samples are."""

    def __init__(self, name: str, files: tuple[str, ...]) -> None:
        self.name = name
        self._files = files
        self.lengths = [None] * len(files)

    def fingerprint(self) -> str:
        # A store far away takes a request for each size, so there the names must do.
        shards = [(file_name(file), None if is_url(file) else Path(file).stat().st_size) for file in self._files]
        return hashlib.sha256(json.dumps(shards).encode()).hexdigest()

    def read(self, chunk: int) -> Iterator[Sample]:
        file = self._files[chunk]
        shard = file_name(file)
        with opened_tar(file) as tar:
            for key, members in _samples(tar, file):
                yield Sample(f"{shard}/{key}", members["image"], _label(members, f"{file}: {key}"))

    def count(self, chunk: int) -> int:
        """By the headers alone; what lies between them is passed over where that can be."""
        file = self._files[chunk]
        with opened_tar(file) as tar:
            return sum(1 for _ in _samples(tar, file, headers_only=True))


class _Member(tarfile.TarInfo):
    """tarfile takes a file that ends between two members, or within a header, for a whole one."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except (EmptyHeaderError, TruncatedHeaderError) as e:
            raise ReadError("it has no end mark") from e


@contextmanager
def opened_tar(file: str) -> Iterator[tarfile.TarFile]:
    """To be gone through once, from start to end. Raises SourceError where it is damaged, whenever that shows."""
    with open_binary(file) as stream:
        try:
            # Both go once from start to end; tarfile's own mode for streams is four times slower, so it is left to
            # what is compressed, and to what cannot step over a member.
            mode = "r:" if without_query(file).endswith(".tar") and stream.seekable() else "r|*"
            with tarfile.open(fileobj=stream, mode=mode, bufsize=_BUFFER_BYTES, tarinfo=_Member) as tar:  # type: ignore[call-overload]
                yield tar
        except DAMAGE as e:
            raise SourceError(f"{file} is damaged or cut short: {e}; fetch or write it again") from e
        except SourceError:
            raise
        except Exception as e:  # every store raises errors of its own
            raise SourceError(f"{file} {reason(e).text}") from e


def split_key(name: str) -> tuple[str, str]:
    """A member's name, cut at the first dot of its last part: what it shares with others, and what it is."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension


def _samples(tar: tarfile.TarFile, file: str, *, headers_only: bool = False) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, content by kind: image and what there is of _LABELS) of every key that has an image.

    Raises SourceError where there are members and no image among them.
    """
    current, members, first, found = "", dict[str, bytes](), "", False
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps every header that it has read
        if not member.isfile():
            continue
        first = first or member.name
        key, extension = split_key(member.name)
        if key != current:
            if "image" in members:
                yield current, members
            current, members = key, {}
        kind = "image" if extension.lower() in _IMAGES else extension.lower()
        if kind not in ("image", *_LABELS) or kind in members:
            continue
        if headers_only:
            members[kind] = b""
        else:
            content = cast("IO[bytes]", tar.extractfile(member))
            members[kind] = content.read() if kind == "image" else content.read(MAX_LABEL_BYTES)
        found = found or kind == "image"
    if "image" in members:
        yield current, members
    if first and not found:
        raise SourceError(f"{file} holds no images, but {first}; members are named KEY.jpg, and a KEY has no dot")


def _label(members: dict[str, bytes], name: str) -> int | str | None:
    try:
        if "cls" in members:
            return int(members["cls"])
        if "json" in members and isinstance(document := json.loads(members["json"]), dict):
            label = document.get("label")
            if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
                raise ValueError(f"its label {label!r} is neither a number nor a name")
            if label is not None:
                return label
        text = members.get("txt", b"").decode().strip()
    except ValueError as e:
        raise SourceError(f"{name} has an unreadable label: {e}; correct it or leave it out") from e
    return int(text) if text.lstrip("-").isdecimal() else text or None
