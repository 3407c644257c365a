"""The files that sources name: folders walked, patterns matched, single files gathered, and each taken once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bulk.pieces import MARK
from bundle.errors import SourceError
from sources import location
from sources.files import IMAGE_SUFFIXES
from sources.names import Names
from sources.parquet import PARQUET_SUFFIXES
from sources.patterns import has_magic, split
from sources.tar import TAR_SUFFIXES
from sources.trees import open_tree
from sources.urls import is_pattern, is_url, is_web, spell_out, stored_kind, translated, without_query

Kind = Literal["files", "rows", "tar"]
Progress = Callable[[int], None]
_KINDS: tuple[tuple[Kind, tuple[str, ...], str], ...] = (
    ("files", IMAGE_SUFFIXES, "images"),
    ("rows", PARQUET_SUFFIXES, ".parquet files"),
    ("tar", TAR_SUFFIXES, ".tar files"),
)
_BY_SUFFIX: dict[str, Kind] = {suffix: kind for kind, suffixes, _ in _KINDS for suffix in suffixes}
_FILES_PER_REPORT = 10_000


@dataclass
class Found:
    """Files of one kind. root: a folder, absolute or by URL, that `names` are relative to, in the order of their parts.

    distinct: whether none can be named twice, as in what was found by looking.
    """

    kind: Kind
    root: str
    names: Names
    distinct: bool

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def shown(self, name: str) -> str:
        """The name without what signs a link."""
        return name.split("?", 1)[0] if is_web(self.root) else name


def find(sources: Sequence[str], progress: Progress | None) -> list[Found]:
    """In the order of the sources; those that are single files stand together where the first of them does.

    progress: hears how many files there are so far. Raises SourceError for a source that is not there, holds nothing
    that is read, or holds files of two kinds.
    """
    count = _Counter(progress)
    found: list[Found | tuple[Kind, str]] = []
    single = dict[tuple[Kind, str], list[str]]()
    for named in sources:
        if not named.strip():
            raise SourceError("a source is named by an empty text; is a variable of the shell unset?")
        source = location(named).removeprefix("file://")
        files = _spelled(source)
        if files is None:
            found.append(_look(source, count))
            continue
        for file in files:
            key = _kind(without_query(file)) or "files", "/".join(file.split("/")[:3]) if is_url(file) else ""
            if key not in single:
                found.append(key)
            single.setdefault(key, []).append(file)
            count.add()
    count.report()
    return [item if isinstance(item, Found) else _gathered(item[0], single[item]) for item in found]


def absolute(named: str) -> str:
    """A source by its path from the root on, or its URL: from every working directory the same."""
    source = location(named).removeprefix("file://")
    return source if is_url(source) else os.path.abspath(source)  # noqa: PTH100 - resolve() would follow links


def _spelled(source: str) -> tuple[str, ...] | None:
    """The files that a source names one by one, absolute; None for a folder, and for what only looking tells."""
    if is_url(source):
        if not is_pattern(source):
            return None if _is_folder(source) else (source,)
        return None if has_magic(without_query(source)) else spell_out(source)
    path = Path(source)
    if path.is_dir():
        return None
    if path.is_file():
        return (os.path.abspath(source),)  # noqa: PTH100 - resolve() would follow links
    if not is_pattern(source):
        raise SourceError(f"{source} is neither a folder nor a file; name a folder, images, .parquet, .tar, or a URL")
    return None if has_magic(source) else tuple(os.path.abspath(file) for file in spell_out(source))  # noqa: PTH100


def _is_folder(url: str) -> bool:
    """A web server does not tell, so there the name has to. Raises SourceError where there is neither."""
    if is_web(url):
        return _kind(without_query(url)) is None
    return stored_kind(url) == "directory"


def _look(source: str, count: _Counter) -> Found:
    """What a folder or a pattern holds."""
    pattern = is_pattern(source) and (is_url(source) or not Path(source).is_dir())
    root, parts = split(source) if pattern else (source, [])
    root = root if is_url(root) else os.path.abspath(root)  # noqa: PTH100
    spelled = pattern and _spells_suffix(parts[-1])
    names: dict[Kind, Names] = {kind: Names() for kind, _, _ in _KINDS}
    with translated(source):
        tree = open_tree(root, with_broken=True)  # each is a row that says so
        listed = tree.match(parts, without=MARK) if pattern else tree.walk(lambda n: _kind(n) is not None, without=MARK)
        for name in listed:
            kind = _kind(name)
            if kind is not None or spelled:
                names[kind or "files"].append(name)
                count.add()
        there = [(kind, words) for kind, _, words in _KINDS if len(names[kind])]
        if not there and MARK in tree.scan("", lambda _: False)[0]:
            raise SourceError(f"{root} is an output of bulk.embed and holds vectors; name the images themselves")
    if not there:
        what = "images, .parquet or .tar files"
        raise SourceError(f"no {what} match {source}" if pattern else f"{source} holds no {what}")
    kind, _ = there[0]
    if len(there) > 1:
        example = f"{root.rstrip('/')}/**/*{PurePosixPath(names[kind][0]).suffix}"
        kinds = " and ".join(words for _, words in there)
        raise SourceError(f"{source} holds {kinds}; name which, with a pattern such as '{example}'")
    return Found(kind, root, names[kind], distinct=True)


def _kind(name: str) -> Kind | None:
    """By its ending. Of millions of names, so by one look into a table."""
    suffix = name[name.rfind(".") :].lower()
    return _BY_SUFFIX.get(suffix) or ("tar" if suffix == ".gz" and name.lower().endswith(TAR_SUFFIXES) else None)


def _spells_suffix(part: str) -> bool:
    """Whoever writes `*.jfif` means those files, whatever is in them; `*` means what is known to be images."""
    _, dot, suffix = part.rpartition(".")
    return bool(dot) and bool(suffix) and not has_magic(suffix)


def _gathered(kind: Kind, files: list[str]) -> Found:
    """Files that were named one by one, in order, below the folder that they have in common."""
    parts = sorted({tuple(file.split("/")) for file in files})
    first, last = parts[0][:-1], parts[-1][:-1]
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    names = Names("/".join(file.split("/")[common:]) for file in sorted(files, key=lambda file: file.split("/")))
    return Found(kind, "/".join(first[:common]) or "/", names, distinct=False)


class _Counter:
    def __init__(self, progress: Progress | None) -> None:
        self._count, self._progress = 0, progress

    def add(self) -> None:
        self._count += 1
        if self._count % _FILES_PER_REPORT == 0:
            self.report()

    def report(self) -> None:
        if self._progress is not None:
            self._progress(self._count)


def source_names(roots: Sequence[str]) -> dict[str, str]:
    """What the paths of each root begin with: as many of its last parts as tell them apart; nothing for one alone.

    Those that lead to one folder have the name of the first.
    """
    firsts = dict[str, str]()
    same = {root: firsts.setdefault(identity(root), root) for root in roots}
    distinct = list(firsts.values())
    if len(distinct) == 1:
        return dict.fromkeys(same, "")
    parts = {root: [part for part in root.split("/") if part] or [root] for root in distinct}
    for n in range(1, 1 + max(map(len, parts.values()))):
        names = {root: "/".join(own[-n:]) + "/" for root, own in parts.items()}
        ordered = sorted(names.values())
        if not any(b.startswith(a) for a, b in pairwise(ordered)):
            break
    return {root: names[first] for root, first in same.items()}


class Once:
    """Tells what is named again. Sixteen bytes are kept of each name, so that ten million fit."""

    def __init__(self) -> None:
        self._digests, self._ends = bytearray(), list[int]()

    def add(self, names: Iterator[str]) -> None:
        """A block of names, of which `repeated` tells."""
        for name in names:
            self._digests += blake2b(os.fsencode(name), digest_size=16).digest()
        self._ends.append(len(self._digests) // 16)

    def repeated(self) -> list[NDArray[np.bool_]]:
        """For each block, which of its names came before, in it or in another."""
        halves = np.frombuffer(self._digests, np.uint64).reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: the first of equal ones stays first
        ordered = halves[order]
        same = (ordered[1:] == ordered[:-1]).all(axis=1)
        repeated = np.zeros(len(halves), np.bool_)
        repeated[order[1:]] = same
        return np.split(repeated, self._ends[:-1])


def identity(path: str) -> str:
    """Of a folder: the same for all paths that lead to it."""
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)


def drop_repeated(found: list[Found]) -> tuple[list[Found], int]:
    """(files that were not named before, how many were)."""
    roots = [identity(item.root).rstrip("/") for item in found]
    ordered = sorted(root + "/" for root in roots)
    apart = not any(b.startswith(a) for a, b in pairwise(ordered))
    if apart and all(item.distinct for item in found):
        return found, 0
    once = Once()
    for root, item in zip(roots, found, strict=True):
        once.add(f"{root}/{name}" for name in item.names)
    kept, dropped = list[Found](), 0
    for item, repeated in zip(found, once.repeated(), strict=True):
        dropped += int(repeated.sum())
        if repeated.any():
            item.names = Names(name for name, again in zip(item.names, repeated, strict=True) if not again)
        if len(item.names):
            kept.append(item)
    return kept, dropped
