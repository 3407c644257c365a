"""Folders on a disk or in a store, walked in one order: by the parts of their paths."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from sources.patterns import Part, fits
from sources.stores import file_system, is_arrow

Wanted = Callable[[str], bool]  # of a file's name
_FOLDER = "\0"  # behind a folder's name while names are sorted: `a/1` goes before `a.b`, and a store may have both


class Tree(ABC):
    """A folder, `root`. Paths in it are relative, with slashes; the root itself is ''."""

    root: str

    @abstractmethod
    def scan(self, folder: str, wanted: Wanted) -> tuple[list[str], list[str]]:
        """The names of the folders and of the wanted files directly in a folder, in no order."""

    def identity(self, folder: str) -> Hashable:
        """The same for a folder that is reached by two paths."""
        return folder

    def walk(self, wanted: Wanted, *, without: str = "", folder: str = "") -> Iterator[str]:
        """The wanted files at any depth. Links are followed, but never back into a folder above.

        A subset of a data set is often a folder of links to its classes. without: a folder that holds a folder of this
        name is left out.
        """
        yield from self._walk(folder, wanted, without, ())

    def _walk(self, folder: str, wanted: Wanted, without: str, above: tuple[Hashable, ...]) -> Iterator[str]:
        identity = self.identity(folder)
        if identity in above:
            return
        folders, files = self.scan(folder, wanted)
        if without and without in folders:
            return
        names = [*files, *(name + _FOLDER for name in folders)]
        names.sort()
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if name[-1] == _FOLDER:
                yield from self._walk(path[:-1], wanted, without, (*above, identity))
            else:
                yield path

    def match(self, parts: Sequence[str], *, without: str = "") -> Iterator[str]:
        """The files whose paths fit a pattern's parts. Only folders that may hold some are looked into."""
        yield from self._match("", [Part(part) for part in parts], without)

    def _match(self, folder: str, parts: Sequence[Part], without: str) -> Iterator[str]:
        part, rest = parts[0], parts[1:]
        begin = f"{folder}/" if folder else ""
        if part.is_every:
            walked = self.walk(lambda _: True, without=without, folder=folder)
            yield from (path for path in walked if fits(path[len(begin) :].split("/"), parts))
            return
        folders, files = self.scan(folder, part.fits if not rest else lambda _: False)
        if without and without in folders:
            return
        if not rest:
            yield from (begin + name for name in sorted(files))
            return
        for name in sorted(filter(part.fits, folders)):
            yield from self._match(begin + name, rest, without)


class LocalTree(Tree):
    """with_broken: whether links that lead nowhere are files too, rather than nothing."""

    def __init__(self, root: str, *, with_broken: bool = False) -> None:
        self.root, self._with_broken = root, with_broken

    def scan(self, folder: str, wanted: Wanted) -> tuple[list[str], list[str]]:
        folders, files = list[str](), list[str]()
        with os.scandir(self._path(folder)) as entries:
            for entry in entries:
                kind = _kind(entry)
                if kind == "folder":
                    folders.append(entry.name)
                elif (kind == "file" or (kind == "broken" and self._with_broken)) and wanted(entry.name):
                    files.append(entry.name)
        return folders, files

    def identity(self, folder: str) -> Hashable:
        status = Path(self._path(folder)).stat()
        return status.st_dev, status.st_ino

    def _path(self, folder: str) -> str:
        return f"{self.root}/{folder}" if folder else self.root


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "broken", "other"]:
    """Of what a link leads to; broken: to nothing, or to itself."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "broken" if entry.is_symlink() and not os.path.exists(entry.path) else "other"  # noqa: PTH110
    except OSError as e:
        if e.errno == errno.ELOOP:
            return "broken"
        raise


class StoreTree(Tree):
    """A folder by URL. Raises what fsspec and pyarrow raise, see `stores.reason`."""

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self._fs, path = file_system(self.root)
        self._root = str(path).rstrip("/")

    def scan(self, folder: str, wanted: Wanted) -> tuple[list[str], list[str]]:
        folders, files = list[str](), list[str]()
        for entry in self._entries(f"{self._root}/{folder}" if folder else self._root):
            name = str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]
            if entry["type"] == "directory":
                folders.append(name)
            elif wanted(name):
                files.append(name)
        return folders, files

    def _walk(self, folder: str, wanted: Wanted, without: str, above: tuple[Hashable, ...]) -> Iterator[str]:
        """pyarrow lists all that is below a folder by a thousand files a request, and not folder by folder.

        The root itself is looked into once, so that one of its folders at a time is held.
        """
        if not folder or not is_arrow(self._fs):
            yield from super()._walk(folder, wanted, without, above)
            return
        from pyarrow.fs import FileSelector, FileType

        found = self._fs.fs.get_file_info(FileSelector(f"{self._root}/{folder}", recursive=True))
        left_out = tuple(f"{i.path.rpartition('/')[0]}/" for i in found if i.base_name == without)
        paths = [i.path for i in found if i.type is FileType.File and wanted(i.base_name)]
        paths.sort(key=lambda path: path.split("/"))
        begin = len(self._root) + 1
        yield from (path[begin:] for path in paths if not path.startswith(left_out))

    def _entries(self, path: str) -> list[dict[str, Any]]:
        if not is_arrow(self._fs):
            return list(self._fs.ls(path, detail=True))
        from pyarrow.fs import FileSelector, FileType

        kinds = {FileType.Directory: "directory", FileType.File: "file"}
        found = self._fs.fs.get_file_info(FileSelector(path))  # where the wrapper's ls passes over a missing folder
        return [{"name": info.path, "type": kinds.get(info.type, "other")} for info in found]


def open_tree(folder: str, *, with_broken: bool = False) -> Tree:
    """By path or URL. with_broken: see `LocalTree`; a store has no links."""
    return StoreTree(folder) if "://" in folder else LocalTree(folder, with_broken=with_broken)
