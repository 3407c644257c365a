"""Where the output goes: a folder, or a URL that fsspec knows. A file appears there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from bulk.errors import BulkError
from sources.stores import file_system, reason
from sources.urls import is_url

STATE = "_maeve"  # the folder of what is not output; readers of Parquet pass over names that begin so
# Where an upload that is not finished never shows; elsewhere a file is renamed once it is whole.
_WHOLE_UPLOADS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "memory"})


class Place(Protocol):
    """Names are relative to it, with a slash. Everything raises BulkError that names the file."""

    def names(self, folder: str = "") -> set[str]:
        """What lies directly in a folder, none if there is no such folder."""
        ...

    def open(self, name: str) -> BinaryIO:
        """For reading, from its start, and seekable."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Replaces what is there."""
        ...

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts no other run may begin here, as far as the place can tell."""
        ...


def open_place(out: str | Path) -> Place:
    """Nothing is made or written yet. BulkError for a URL whose scheme is not known."""
    return RemotePlace(str(out)) if is_url(str(out)) else LocalPlace(Path(out))


def read(place: Place, name: str) -> bytes:
    with place.open(name) as file:
        return file.read()


class LocalPlace:
    """A folder; made when something is written."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - a process elsewhere must find it, links as they are

    def __str__(self) -> str:
        return str(self._root)

    def names(self, folder: str = "") -> set[str]:
        try:
            return set(os.listdir(self._root / folder))  # noqa: PTH208 - a Path for each of 10,000 names costs more
        except FileNotFoundError:
            return set()
        except OSError as e:
            raise BulkError(f"cannot read {self._root / folder}: {e.strerror}; choose another --out") from e

    def open(self, name: str) -> BinaryIO:
        try:
            return (self._root / name).open("rb")
        except OSError as e:
            raise BulkError(f"cannot read {self._root / name}: {e.strerror}") from e

    def write(self, name: str, data: bytes) -> None:
        target = self._root / name
        staging = self._root / STATE / f".{target.name}.{secrets.token_hex(4)}.partial"
        try:
            staging.parent.mkdir(parents=True, exist_ok=True)
            try:
                with staging.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                staging.replace(target)
            finally:
                staging.unlink(missing_ok=True)
            _fsync_folder(target.parent)
        except OSError as e:
            raise BulkError(f"cannot write {target}: {e.strerror}; {_advice(e)}") from e

    @contextmanager
    def locked(self) -> Iterator[None]:
        """By an advisory lock on the folder of the state, which ends with the process however that ends. What a killed
        run was writing is cleared away, and so are folders in which nothing came to be.
        """
        folder = self._root / STATE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as e:
            raise BulkError(f"cannot write {folder}: {e.strerror}; {_advice(e)}") from e
        try:
            lock(descriptor, self._root)
            for left in folder.glob(".*.partial"):
                left.unlink(missing_ok=True)
            yield
        finally:
            for made in (folder, self._root):
                with suppress(OSError):  # not empty
                    made.rmdir()
            os.close(descriptor)


class RemotePlace:
    """Below a URL. What several runs at once would do here nobody prevents."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._scheme = url.partition("://")[0]
        self._opened: tuple[Any, str] | None = None

    def __str__(self) -> str:
        return self._url

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}  # connections stay in the process that made them

    def names(self, folder: str = "") -> set[str]:
        with self._translated("read", folder):
            files, root = self._files()
            files.invalidate_cache()
            try:
                found = files.ls(f"{root}/{folder}".rstrip("/"), detail=False)
            except FileNotFoundError:
                return set()
            return {name.rstrip("/").rsplit("/", 1)[-1] for name in found} - {""}

    def open(self, name: str) -> BinaryIO:
        with self._translated("read", name):
            files, root = self._files()
            return cast("BinaryIO", files.open(f"{root}/{name}", "rb"))

    def write(self, name: str, data: bytes) -> None:
        with self._translated("write", name):
            files, root = self._files()
            if self._scheme in _WHOLE_UPLOADS:
                files.pipe_file(f"{root}/{name}", data)
                return
            staging = f"{root}/{STATE}/.{name.rsplit('/', 1)[-1]}.{secrets.token_hex(4)}.partial"
            files.makedirs(f"{root}/{STATE}", exist_ok=True)
            files.pipe_file(staging, data)
            files.mv(staging, f"{root}/{name}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def _files(self) -> tuple[Any, str]:
        if self._opened is None:
            files, root = file_system(self._url)
            self._opened = files, root.rstrip("/")
        return self._opened

    @contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except BulkError:
            raise
        except Exception as e:  # every store raises errors of its own
            where = f"{self._url}/{name}".rstrip("/")
            raise BulkError(f"cannot {verb} {where}: it {reason(e).text}") from e


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse it for folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there; the same command goes on with what is finished"
    return "choose another --out"


def lock(descriptor: int, location: object) -> None:
    """For this process alone, until the descriptor is closed. BulkError where another has it, at `location`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise BulkError(f"another run is writing to {location}; wait for its end, or choose another --out") from e
    except OSError:  # a network's file system that knows no such locks
        return
