"""Small pictures of images below one folder, and of nothing else.

A path that cannot be served is answered alike whatever the reason, so that nobody learns what there is elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Final
from urllib.parse import quote

from PIL import Image

from bundle.decode import decode_image
from bundle.errors import InvalidInput, Overloaded
from bundle.preprocess import upright
from runtime.cores import usable_cores
from service.admission import Load
from service.errors import NoThumbnail
from service.settings import Settings, SettingsError

ROUTE: Final = "/thumbnails/"

# Rows of Parquet and members of tar shards, as bulk.embed names them: images, but no files.
_INSIDE_A_FILE: Final = re.compile(r"\.parquet#\d+$|\.(?:tar|tar\.\w+|tgz)/", re.IGNORECASE)
_THREADS: Final = 2  # what is shown beside an answer must not take the cores from the model
_MAX_WAITING: Final = 512  # several answers of a hundred rows
_QUALITY: Final = 80
_SEARCHED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would be waited for


@dataclass(frozen=True)
class Thumbnail:
    """jpeg: None where the client has the one of this etag."""

    etag: str
    jpeg: bytes | None


class Thumbnails:
    """Makes them on threads of its own. For an event loop's thread; `close` ends its threads."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._max_bytes = settings.max_body_bytes
        self._shrink = partial(shrink, max_pixels=settings.max_pixels, formats=settings.allowed_formats)
        self._pool = ThreadPoolExecutor(min(_THREADS, usable_cores()), thread_name_prefix="thumbnail")
        self._load = Load()

    async def get(self, path: str, size: int, knows: Callable[[str], bool]) -> Thumbnail:
        """The image at `path`, upright, of at most `size` pixels a side. `knows`: whether the client has an etag's.

        NoThumbnail; Overloaded if too many wait.
        """
        if self._load.pending >= _MAX_WAITING:
            raise Overloaded(f"{_MAX_WAITING} thumbnails are being made or wait", retry_after_s=self._load.drain_s())
        self._load.enter(1)
        finished = False
        try:
            work = partial(self._make, path, size, knows)
            made = await asyncio.get_running_loop().run_in_executor(self._pool, work)
            finished = True
        finally:
            self._load.leave(finished=finished)
        return made

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, path: str, size: int, knows: Callable[[str], bool]) -> Thumbnail:
        try:
            file = open_below(self._folder, path)
        except (OSError, ValueError, RuntimeError) as e:  # the last for links in a circle
            raise NoThumbnail(path) from e
        with os.fdopen(file, "rb") as opened:
            found = os.fstat(file)
            if found.st_size > self._max_bytes:
                raise NoThumbnail(path)
            etag = _etag(found, size)
            if knows(etag):
                return Thumbnail(etag, None)
            data = opened.read(self._max_bytes)
        try:
            return Thumbnail(etag, self._shrink(data, size))
        except InvalidInput as e:
            raise NoThumbnail(path) from e


def link(path: str) -> str | None:
    """Where the thumbnail of a row would be, relative to the service; None for a path that none can have."""
    return None if _parts(path) is None or _INSIDE_A_FILE.search(path) else f"{ROUTE[1:]}{quote(path)}"


def check_folder(settings: Settings) -> None:
    """SettingsError if thumbnails are to come from what is no folder."""
    if settings.thumbnails is not None and not settings.thumbnails.is_dir():
        raise SettingsError(f"MAEVE_THUMBNAILS: there is no folder {settings.thumbnails}")


def make_thumbnails(settings: Settings) -> Thumbnails | None:
    """None where the settings name no folder."""
    return None if settings.thumbnails is None else Thumbnails(settings.thumbnails, settings)


def open_below(folder: Path, path: str) -> int:
    """A descriptor, for reading, of the regular file at `path` below `folder`; links are followed if they lead to one
    that is below it too. Nothing hidden, neither by its path nor where it lies.

    OSError, ValueError or RuntimeError if there is none.
    """
    parts = _parts(path)
    if parts is None:
        raise ValueError(path)
    root = folder.resolve(strict=True)
    settled = _parts(os.fspath(root.joinpath(*parts).resolve(strict=True).relative_to(root)))
    if settled is None:
        raise ValueError(path)
    # The settled path has no links, so whatever is one by now was put there since it was looked at: none is followed.
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in settled[:-1]:
            at, before = os.open(part, _SEARCHED, dir_fd=at), at
            os.close(before)
        file = os.open(settled[-1], _READ, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError(path)
    return file


def shrink(data: bytes, size: int, *, max_pixels: int, formats: tuple[str, ...]) -> bytes:
    """A JPEG of an encoded image, upright, neither side of more than `size` pixels, and never enlarged.

    Raises as `bundle.decode.decode_image`.
    """
    picture = decode_image(data, channels=3, max_pixels=max_pixels, target=(size, size), formats=formats)
    rows, columns = picture.extent
    scale = max(1.0, max(picture.full_size) / size)
    height, width = (max(1, round(side / scale)) for side in picture.full_size)
    small = picture.image.resize((width, height), Image.Resampling.BICUBIC, box=(0, 0, columns, rows))
    out = BytesIO()
    upright(small, picture.orientation).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _parts(path: str) -> list[str] | None:
    """Of a relative path with slashes; None for one that is absolute, goes up, or names something hidden."""
    parts = path.split("/")
    hidden = any(not part or part.startswith(".") for part in parts)
    return None if hidden or "\0" in path else parts


def _etag(found: os.stat_result, size: int) -> str:
    """Of the file as it is now."""
    named = f"{found.st_dev} {found.st_ino} {found.st_mtime_ns} {found.st_size} {size}"
    return f'"{sha256(named.encode()).hexdigest()[:32]}"'
