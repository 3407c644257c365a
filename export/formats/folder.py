"""A folder in someone else's layout, with a note in it of what was written: the note is what --overwrite goes by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bundle.place import check_place, staged
from export.formats.options import Format

NOTE_FILE = "maeve.json"


@contextmanager
def fresh_folder(out: Path, format: Format, *, overwrite: bool, **facts: Any) -> Iterator[Path]:  # noqa: A002
    """A path for the block to make a folder at, which becomes `out` whole or not at all; the note is added to it.

    `facts`: what else the note says, as JSON has it. BundleError as `check_folder`, or if the disk does not take it.
    """
    check_folder(out, overwrite=overwrite)
    with staged(out) as staging:
        yield staging
        note = {"format": format, **facts, "files": sorted(_files(staging))}
        write_json(staging / NOTE_FILE, note)


def check_folder(out: Path, *, overwrite: bool) -> None:
    """BundleError if something stands at `out`, unless an export wrote all of it and it may be overwritten."""
    check_place(out, overwrite=overwrite, fault=_fault(out))


def _fault(out: Path) -> str:
    """Why `out` is not ours to replace; empty if it is."""
    try:
        ours = {*json.loads((out / NOTE_FILE).read_text(encoding="utf-8"))["files"], NOTE_FILE}
    except (OSError, ValueError, TypeError, KeyError):  # no folder, no note, or another's
        return f"has no {NOTE_FILE} of an export"
    strange = sorted(_files(out) - ours)
    return f"holds {strange[0]}, which no export wrote" if strange else ""


def _files(folder: Path) -> set[str]:
    """Relative to the folder; whatever is not a folder itself."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def write_json(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
