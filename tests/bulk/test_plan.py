"""Plans: what they keep of the pieces, and what of a source is new to them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from bulk.errors import BulkError
from bulk.pieces import Piece
from bulk.place import STATE, open_place
from bulk.plan import Plans, unplanned


def files(*names: str, location: str = "/photos") -> Piece:
    return Piece("files", location, names=names, count=len(names), prefix="photos/")


def rows(first: int, count: int, location: str = "/a.parquet", file_rows: int = 12) -> Piece:
    return Piece("rows", location, first=first, count=count, skip=(1, 2), num_bytes=9, file_rows=file_rows)


def test_pieces_come_back_by_their_numbers(tmp_path: Path) -> None:
    odd = os.fsdecode(b"not-\xff-text.jpg")
    first = [files(f"{i}.jpg", odd) for i in range(70)]
    second = [rows(0, 5), Piece("tar", "/s.tar")]
    place = open_place(tmp_path)
    plans = Plans(place, ()).extended(first).extended(second)
    assert sorted(place.names(STATE)) == ["plan-0000.parquet", "plan-0001.parquet"]
    for found in (plans, Plans.of(place), pickle.loads(pickle.dumps(plans))):  # noqa: S301 - our own
        assert len(found) == 72
        assert [found[i] for i in range(72)] == first + second
        assert found.counts() == [2] * 70 + [5, None]


def test_a_plan_that_is_missing_in_between(tmp_path: Path) -> None:
    place = open_place(tmp_path)
    Plans(place, ()).extended([files("a.jpg")]).extended([files("b.jpg")])
    (tmp_path / STATE / "plan-0000.parquet").unlink()
    with pytest.raises(BulkError, match=r"lacks plan-0000\.parquet"):
        Plans.of(place)


def test_what_is_new_is_planned_and_nothing_twice(tmp_path: Path) -> None:
    place = open_place(tmp_path)
    assert unplanned(Plans(place, ()), [files("a.jpg")], 2) == [files("a.jpg")]
    plans = Plans(place, ()).extended([files("a.jpg", "c.jpg"), rows(0, 4), rows(4, 4), Piece("tar", "/s.tar")])
    listed = [
        files("a.jpg", "b.jpg"), files("c.jpg", "d.jpg", "e.jpg"), files("a.jpg", location="/more"), rows(0, 8),
        rows(0, 3, "/b.parquet"), Piece("tar", "/s.tar"), Piece("tar", "/t.tar"),
    ]  # fmt: skip
    new = [
        files("b.jpg", "d.jpg"), files("e.jpg"), files("a.jpg", location="/more"), rows(0, 3, "/b.parquet"),
        Piece("tar", "/t.tar"),
    ]  # fmt: skip
    assert unplanned(plans, listed, 2) == new
    assert unplanned(plans.extended(new), listed, 2) == []


def test_a_parquet_file_that_was_written_anew_is_refused(tmp_path: Path) -> None:
    plans = Plans(open_place(tmp_path), ()).extended([rows(0, 4), rows(4, 4)])
    with pytest.raises(BulkError, match=r"/a\.parquet has 9 rows, and had 12 when this run began"):
        unplanned(plans, [rows(0, 7, file_rows=9)], 4)
