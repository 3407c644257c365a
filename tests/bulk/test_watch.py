"""What is seen of deaths: who counts them, who says them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulk.display import displayed
from bulk.place import open_place
from bulk.state import State
from bulk.watch import Past, Seen, Watch
from tests.bulk.working import plans_of, write_photos


def test_beginnings_without_an_end_are_deaths() -> None:
    watch = Watch()
    for _ in range(3):
        assert watch.past(0).num_deaths == 0
        watch.begin(0)
        watch.note(0, 5)
        assert watch.seen() == Seen({0: 5}, {})
        watch.end(0)
    assert watch.past(0) == Past(0, is_ended=True)
    for num_deaths in range(3):
        assert watch.past(1) == Past(num_deaths, is_ended=False)
        watch.begin(1)
    assert watch.seen() == Seen({1: 0}, {1: 2})
    watch.end(1)
    assert watch.past(1) == Past(0, is_ended=True)
    assert watch.seen() == Seen({}, {1: 2})


def test_each_death_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path / "photos", 8)
    place = open_place(tmp_path / "out")
    state = State.of(place, plans_of(place, tmp_path / "photos"))
    with displayed(state, state.todo(retry_errors=False)) as display:
        for seen in (Seen({0: 1}, {}), Seen({0: 0}, {0: 1}), Seen({0: 2}, {0: 1}), Seen({1: 0}, {0: 2})):
            display.tell(seen)
    said = "the process died over part-000000.parquet, which is begun anew"
    assert capsys.readouterr().err.splitlines() == [said, said]
