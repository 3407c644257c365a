"""Engines on disk: minutes of building, kept for the next start.

    <root>/<bundle digest>/<sm>-<TensorRT version>-<precision>/<graph>.engine

An engine belongs to one architecture, one version of TensorRT and the graph's every byte, which the digest names. Its
sha256 tells damage, not malice: an engine is code, and whoever may write to the folder chooses what runs. The folder is
made its owner's alone; one that exists keeps the mode it has. Losing the cache costs time, never the
service: what cannot be written stays in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

_TIMING_FILE = "timing.cache"
_MAGIC = b"maeve engine 1\n"
_SHA256_BYTES = 32
_PRIVATE = 0o700
# An engine of a large network builds for many minutes; whoever waits longer than this builds one of its own.
LOCK_TIMEOUT_S = 3600.0
_LOCK_POLL_S = 0.5

log = logging.getLogger(__name__)


class EngineCache:
    """One bundle's engines for one GPU architecture, version and precision. Nothing here raises OSError."""

    def __init__(self, root: Path, *, digest: str, sm: str, version: str, precision: str) -> None:
        self.folder = root / digest / f"{sm}-{version}-{precision}"

    def file(self, graph: str) -> Path:
        """Where the graph's engine is, or would be."""
        return self.folder / f"{graph}.engine"

    def read(self, graph: str) -> bytes | None:
        """The engine as it was written, or None, with a line in the log where it is damaged."""
        return self._read(self.file(graph))

    def write(self, graph: str, engine: bytes) -> bool:
        """Whether it could be kept; if not, the log says why."""
        return self._write(self.file(graph), engine)

    def read_timing(self) -> bytes:
        """What was measured of kernels in earlier builds; empty at first."""
        return self._read(self.folder / _TIMING_FILE) or b""

    def write_timing(self, timing: bytes) -> bool:
        return self._write(self.folder / _TIMING_FILE, timing)

    @contextlib.contextmanager
    def lock(self, graph: str) -> Iterator[None]:
        """Hold off other processes that want to build the same engine: two would disturb each other's timings.

        It is advice alone. The system drops it with the process that holds it, and whoever does not get it, because
        the folder cannot be written or the other takes too long, goes on without: a rename decides whose engine stays.
        """
        with contextlib.ExitStack() as stack:
            try:
                self._make_folder()
                fd = os.open(self.folder / f"{graph}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            except OSError:  # `write` will say so
                yield
                return
            stack.callback(os.close, fd)
            _wait_for_lock(fd, graph)
            yield

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)

    def _read(self, file: Path) -> bytes | None:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            log.warning("%s cannot be read: %s; it is built again", file, e.strerror)
            return None
        head, body = content[: len(_MAGIC) + _SHA256_BYTES], content[len(_MAGIC) + _SHA256_BYTES :]
        if head != _head(body):
            log.warning("%s is damaged; it is built again", file)
            return None
        return body

    def _write(self, file: Path, body: bytes) -> bool:
        """To a temporary name, flushed, renamed: a reader finds the old file or the new one, whole."""
        partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
        try:
            self._make_folder()
            try:
                with partial.open("xb") as out:
                    out.write(_head(body))
                    out.write(body)
                    out.flush()
                    os.fsync(out.fileno())
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as e:
            log.warning("%s cannot be kept: %s; the next start builds it again", file, e.strerror)
            return False
        return True


def _head(body: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(body).digest()


def _wait_for_lock(fd: int, graph: str) -> None:
    """Until the lock on `fd` is ours, or LOCK_TIMEOUT_S have passed, or this system knows no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    told = False
    while time.monotonic() < deadline:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                log.info("another process builds the %s engine; waiting for it", graph)
                told = True
            time.sleep(_LOCK_POLL_S)
        except OSError:  # a file system without locks
            return
        else:
            return
    log.warning("another process has been building the %s engine for %.0f s; building one here", graph, LOCK_TIMEOUT_S)
