"""Files by path or by URL: opened, listed, and patterns of them spelled out. fsspec reaches what is not local."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bundle.errors import SourceError
from sources.patterns import braces, has_braces, has_magic, split
from sources.stores import file_system, open_stored, reason
from sources.trees import open_tree

# Two letters at least, since C:/ is a drive; and not what names a data set in a folder.
_FOLDED_URL = re.compile(r"^(?!cifar:|stl10:)([A-Za-z][\w+.-]+):/(?!/)")
_WEB = ("http://", "https://")


def location(data: str | Path) -> str:
    """What --data names, as text, spelled one way. The two slashes of a URL, which a Path folds, are put back."""
    return data if isinstance(data, str) and is_url(data) else _FOLDED_URL.sub(r"\1://", str(Path(data)))


def is_url(path: str) -> bool:
    return "://" in path


def is_web(path: str) -> bool:
    """Whether a web server has it, which seldom lists what it has."""
    return path.startswith(_WEB)


def is_pattern(path: str) -> bool:
    """Whether it names several files: `*`, `?`, `[...]`, or braces."""
    return _has_magic(path) or has_braces(path)


def without_query(path: str) -> str:
    """A signed link ends with a query, which is not part of the file's name."""
    return path.split("?", 1)[0] if is_web(path) else path


def file_name(path: str) -> str:
    """The last part, as reports name it."""
    return without_query(path).rstrip("/").rsplit("/", 1)[-1]


def open_binary(path: str) -> BinaryIO:
    """A local path or any fsspec URL, for reading from its start. Raises SourceError where it cannot be opened."""
    with translated(path):
        if not is_url(path):
            return Path(path).open("rb")
        return open_stored(path)


def spell_out(pattern: str) -> tuple[str, ...]:
    """The files that a pattern names: braces in their order, `*` and the like sorted.

    Raises SourceError where it names none, or a local one that is not there.
    """
    found: list[str] = []
    for path in braces(pattern):
        found += _matches(path) if _has_magic(path) else [path]
    if not found:
        raise SourceError(f"no file matches {pattern}")
    if missing := next((path for path in found if not is_url(path) and not Path(path).is_file()), None):
        raise SourceError(f"{missing}, of {pattern}, does not exist or is no file")
    return tuple(found)


def list_folder(path: str, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """The files directly in a folder whose names end so, sorted."""
    if not is_url(path):
        return tuple(sorted(str(p) for p in Path(path).iterdir() if p.name.lower().endswith(suffixes) and p.is_file()))
    with translated(path):
        try:
            _, files = open_tree(path).scan("", lambda name: name[0] != "." and name.lower().endswith(suffixes))
        except FileNotFoundError:  # which many stores do not tell from an empty one
            return ()
        return tuple(f"{path.rstrip('/')}/{name}" for name in sorted(files))


def stored_kind(url: str) -> str:
    """`file` or `directory`. Raises SourceError where the store has neither, or cannot be reached."""
    with translated(url):
        fs, path = file_system(url)
        try:
            return str(fs.info(path)["type"])
        except FileNotFoundError:
            open_tree(url).scan("", lambda _: True)  # of a bucket that is not there, only listing it tells
            raise


def _has_magic(path: str) -> bool:
    return has_magic(without_query(path))


def _matches(pattern: str) -> list[str]:
    root, parts = split(pattern)
    with translated(pattern):
        begin = "" if root == "." and not pattern.startswith("./") else root.rstrip("/") + "/"
        try:
            return sorted(begin + path for path in open_tree(root).match(parts))
        except (FileNotFoundError, NotADirectoryError):
            return []


@contextmanager
def translated(path: str) -> Iterator[None]:
    """fsspec's own words for a scheme that it does not know, or whose package is missing, say what to do."""
    try:
        yield
    except SourceError:
        raise
    except (ImportError, ValueError) as e:
        raise SourceError(f"{path}: {e}") from e
    except Exception as e:  # every store raises errors of its own
        raise SourceError(f"{path} {reason(e).text}") from e
