"""Folders that appear whole or not at all, and replace nothing but what is theirs to replace."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundle.errors import BundleError


def check_place(out: Path, *, overwrite: bool, fault: str) -> None:
    """BundleError if `staged` has no business at `out`: something stands there, or nothing can be written there.

    `fault`: why what stands there may not be replaced, even with `overwrite`; empty where it may.
    """
    if os.path.lexists(out):
        if not overwrite:
            raise BundleError(f"{out} exists; choose another place, or overwrite it with --overwrite")
        if fault:
            raise BundleError(f"{out} exists and {fault}; it is left alone, choose another place")
    nearest = next(parent for parent in out.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise BundleError(f"cannot write {out}: {nearest} is not a folder that you may write to; choose another place")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A hidden path beside `out`, where the block makes a folder; then that is flushed to disk and renamed to `out`.

    What stood at `out` is replaced. Where the block raises or the process dies, it stays as it was. BundleError where
    the disk does not take it.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link that is to be replaced
    staging = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield staging
            _flush(staging)
            _put_in_place(staging, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as e:
        raise BundleError(f"cannot write {out}: {e.strerror or e}; choose another place") from e


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        _fsync(path)
    _fsync(folder)


def _put_in_place(staging: Path, out: Path) -> None:
    """Rename, then delete the old: there is an instant without anything at `out`, never one with half of it."""
    if os.path.lexists(out):
        old = staging.with_suffix(".old")
        out.rename(old)
        try:
            staging.rename(out)
        except OSError:
            old.rename(out)
            raise
        if old.is_symlink():
            old.unlink()
        else:
            shutil.rmtree(old)
    else:
        staging.rename(out)
    _fsync(out.parent)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
