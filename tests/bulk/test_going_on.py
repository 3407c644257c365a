"""What a second call finds planned, as the source moves, grows or shrinks between the two."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bulk.embed import EmbedConfig
from bulk.embedding import _prepare
from bulk.errors import BulkError
from bulk.place import open_place
from bulk.record import RunRecord
from bundle.store import Bundle
from tests.sources.test_open import touch


def prepared(
    bundle: Bundle, out: Path, *sources: str | Path, columns: str | None = None
) -> tuple[RunRecord, list[str]]:
    """The record, and the paths of all files that are planned, in the order of their parts."""
    config = EmbedConfig(
        sources=tuple(map(str, sources)), bundle=bundle.path, out=out, runtime="fake", columns=columns
    )  # fmt: skip
    record, plans = _prepare(config, bundle.manifest, open_place(out), None)
    pieces = [plans[i] for i in range(len(plans))]
    return record, [piece.prefix + name for piece in pieces for name in piece.names or ("",)]


def test_a_source_that_was_moved_is_another_one(
    fake_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all of it would be planned again, under the names that the output has already."""
    touch(tmp_path / "old/photos", "1.jpg", "2.jpg")
    monkeypatch.chdir(tmp_path / "old")
    out = tmp_path / "out"
    assert prepared(fake_bundle, out, "photos")[1] == ["1.jpg", "2.jpg"]
    monkeypatch.chdir(tmp_path)
    for same in ("old/photos", "./old/../old/photos/", tmp_path / "old/photos", f"file://{tmp_path}/old/photos"):
        assert prepared(fake_bundle, out, same)[1] == ["1.jpg", "2.jpg"]
    shutil.move(tmp_path / "old", tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    with pytest.raises(BulkError, match=rf"SRC was {tmp_path}/old/photos, and is now {tmp_path}/new/photos"):
        prepared(fake_bundle, out, "photos")
