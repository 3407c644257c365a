"""What a second call finds planned, as the source moves, grows or shrinks between the two."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from bulk.embed import EmbedConfig
from bulk.embedding import _prepare
from bulk.errors import BulkError
from bulk.place import open_place
from bulk.record import RunRecord
from bundle.store import Bundle
from tests.sources.test_open import structs, touch, write_parquet


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


def test_a_folder_may_gain_its_first_sub_folder_and_lose_its_last(fake_bundle: Bundle, tmp_path: Path) -> None:
    photos = touch(tmp_path / "photos", "1.jpg")
    flat = tmp_path / "flat"
    assert prepared(fake_bundle, flat, photos)[0].carried == {}
    touch(photos, "cat/2.jpg")
    record, names = prepared(fake_bundle, flat, photos)
    assert (record.carried, names) == ({}, ["1.jpg", "cat/2.jpg"])
    for columns in (None, "label"):
        deep = tmp_path / f"deep-{columns}"
        touch(photos, "cat/2.jpg")
        assert prepared(fake_bundle, deep, photos, columns=columns)[0].carried == {"label": "string"}
        shutil.rmtree(photos / "cat")
        touch(photos, "3.jpg")
        record, names = prepared(fake_bundle, deep, photos, columns=columns)
        assert (record.carried, names[-1]) == ({"label": "string"}, "3.jpg")
        (photos / "3.jpg").unlink()


def test_parquet_keeps_its_columns_and_may_have_more(fake_bundle: Bundle, tmp_path: Path) -> None:
    images, file = {"image": structs(b"a")}, tmp_path / "x.parquet"
    write_parquet(file, images | {"n": pa.array([1]), "w": pa.array([0.5])})
    first, _ = prepared(fake_bundle, tmp_path / "out", file, columns="n,w")
    write_parquet(file, images | {"w": pa.array([1]), "n": pa.array([1]), "more": pa.array(["x"])})
    assert prepared(fake_bundle, tmp_path / "out", file)[0] == first
    assert prepared(fake_bundle, tmp_path / "out", file, columns="w,n")[0] == first
    with pytest.raises(BulkError, match=r"the columns was n int64, w double, and is now n int64\."):
        prepared(fake_bundle, tmp_path / "out", file, columns="n")
    write_parquet(file, images | {"w": pa.array([1])})
    with pytest.raises(BulkError, match="the columns was n int64, w double, and is now w int64"):
        prepared(fake_bundle, tmp_path / "out", file)
    write_parquet(file, images | {"w": pa.array([1]), "n": pa.array([1.5])})
    with pytest.raises(BulkError, match="the columns was n int64, w double, and is now w int64, n double"):
        prepared(fake_bundle, tmp_path / "out", file)


def test_a_source_that_at_first_adds_nothing_may_grow(fake_bundle: Bundle, tmp_path: Path) -> None:
    """What paths begin with depends on the sources alone, and not on what is in them."""
    photos, out = touch(tmp_path / "photos", "1.jpg", "sub/2.jpg"), tmp_path / "out"
    sources = (photos, f"{photos}/sub/*.{{jpg,jfif}}")
    assert prepared(fake_bundle, out, *sources)[1] == ["photos/1.jpg", "photos/sub/2.jpg"]
    touch(photos, "sub/3.jfif")
    assert prepared(fake_bundle, out, *sources)[1] == ["photos/1.jpg", "photos/sub/2.jpg", "sub/3.jfif"]


def test_what_a_list_names_may_appear_in_a_folder_and_go_again(fake_bundle: Bundle, tmp_path: Path) -> None:
    photos, file, out = touch(tmp_path / "photos", "1.jpg"), tmp_path / "list.parquet", tmp_path / "out"
    write_parquet(file, {"path": pa.array(["photos/1.jpg", "photos/2.jpg", "photos/3.jpg"])})
    planned = ["photos/1.jpg", f"{tmp_path.name}/list.parquet"]
    assert prepared(fake_bundle, out, photos, file)[1] == planned
    touch(photos, "2.jpg", "3.jpg")  # all that the list names is there now, so that nothing of it is left
    planned += ["photos/2.jpg", "photos/3.jpg"]
    assert prepared(fake_bundle, out, photos, file)[1] == planned
    (photos / "3.jpg").unlink()
    assert prepared(fake_bundle, out, photos, file)[1] == planned
    write_parquet(file, {"path": pa.array(["photos/1.jpg"])})
    touch(photos, "3.jpg")
    (photos / "1.jpg").unlink()
    with pytest.raises(BulkError, match="has 1 rows, and had 3 when this run began"):
        prepared(fake_bundle, out, photos, file)
