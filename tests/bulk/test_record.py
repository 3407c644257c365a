"""run.json: what must not change between two calls, and what may not be in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulk.errors import BulkError
from bulk.place import STATE, open_place
from bulk.record import Engine, check_same, read_record, write_record
from bundle.store import Bundle
from tests.bulk.working import record_of, spec_of


def test_a_record_comes_back(tiny_bundle: Bundle, tmp_path: Path) -> None:
    place = open_place(tmp_path)
    assert read_record(place) is None
    write_record(place, record_of(tiny_bundle))
    assert read_record(place) == record_of(tiny_bundle)
    (tmp_path / STATE / "run.json").write_text("{}")
    with pytest.raises(BulkError, match=r"run\.json is damaged or of another Maeve \(created_at: Field required\)"):
        read_record(place)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"digest": "f" * 64}, r"--bundle was tiny \([0-9a-f]{12}\), and is now tiny \(ffffffffffff\)"),
        ({"pooling": "cls"}, "--pooling was mean, and is now cls"),
        ({"keep": 0.5}, "--keep was 1, and is now 0.5"),
        ({"normalize": False}, "--normalize was on, and is now off"),
        ({"dtype": "float16"}, "--dtype was float32, and is now float16"),
        ({"sources": ("b",)}, "SRC was photos, and is now b"),
        ({"sources": ("a", "b", "c", "d", "e")}, r"is now a and 4 more \(list [0-9a-f]{8}\)"),
        ({"carried": {}}, "the columns was label string, and is now none"),
        ({"engine": Engine(runtime="fake", device="cpu", precision="int8")}, "--precision was fp32, and is now int8"),
        ({"max_pixels": 5}, "--max-pixels was 1000000, and is now 5"),
    ],
)
def test_a_run_that_differs_is_refused(tiny_bundle: Bundle, tmp_path: Path, changed: Any, told: str) -> None:
    in_vectors = {
        name: value for name, value in changed.items() if name in ("digest", "pooling", "keep", "normalize", "dtype")
    }
    others = {name: value for name, value in changed.items() if name not in in_vectors}
    now = record_of(tiny_bundle, vectors=spec_of(tiny_bundle, **in_vectors), **others)
    before = record_of(tiny_bundle)
    with pytest.raises(BulkError, match=told):
        check_same(open_place(tmp_path), before, now)
    check_same(open_place(tmp_path), now, now)


def test_other_people_s_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "_index").mkdir()
    assert read_record(open_place(tmp_path)) is None
    (tmp_path / "thesis.odt").touch()
    with pytest.raises(BulkError, match=r"holds other things \(thesis\.odt\)"):
        read_record(open_place(tmp_path))
    (tmp_path / "part-000000.parquet").touch()
    with pytest.raises(BulkError, match=r"holds parts, and no _maeve/run\.json"):
        read_record(open_place(tmp_path))
