"""benchmarks.search: what it compares is the same question to the same rows, and recall is told as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import benchmarks.report
from benchmarks.search import (
    Input,
    Search,
    Vectors,
    by_lancedb,
    by_numpy,
    divided,
    in_turns,
    made_vectors,
    main,
    make_table,
    train,
)
from bulk.index_recall import best_cosines
from tests.bulk.index_input import clustered, row, write_part, write_parts


@pytest.fixture(scope="module")
def given() -> Input:
    return divided(made_vectors(1010, 32), 10)


def test_queries_are_none_of_the_rows_and_a_tenth_is_chosen(given: Input) -> None:
    assert (given.rows.shape, given.queries.shape) == ((1000, 32), (10, 32))
    np.testing.assert_allclose(np.linalg.norm(given.rows, axis=1), 1, atol=1e-6)
    assert (given.queries @ given.rows.T).max() < 0.9999
    assert 60 < len(given.chosen) < 140


def test_every_way_finds_the_same_rows_with_and_without_the_filter(given: Input, tmp_path: Path) -> None:
    table = make_table(tmp_path, given)
    train(tmp_path, table, "IvfSq")
    for rows, where in ((given.rows, None), (given.chosen, "tenth = '3'")):
        expected = best_cosines(given.queries, [rows], 10)
        for search in (by_numpy(given), by_lancedb(table, exact=True), by_lancedb(table, exact=False)):
            for query, cosines in zip(given.queries, expected, strict=True):
                np.testing.assert_allclose(search(query, where) @ query, cosines, atol=1e-5)


def test_ways_take_turns_and_the_first_round_does_not_count(given: Input) -> None:
    calls: list[tuple[str, str | None]] = []

    def way(name: str) -> Search:
        def search(query: Vectors, where: str | None) -> Vectors:
            calls.append((name, where))
            return query

        return search

    timed = in_turns([way("a"), way("b")], given.queries[:1], rounds=2)
    assert [name for name, where in calls if where is None] == ["b", "a", "a", "b", "b", "a"]
    assert [len(each.plain) for each in timed] == [len(each.filtered) for each in timed] == [2, 2]


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[str, list[list[str]]]:
    """The result's text, and the rows of its table."""
    monkeypatch.setattr(benchmarks.report, "RESULTS", tmp_path / "results")
    more = ["--queries", "5", "--rounds", "1", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["search.py", *arguments, *more])
    main()
    [result] = (tmp_path / "results").iterdir()
    text = result.read_text()
    lines = [line for line in text.splitlines() if "numpy, in memory" in line or "| LanceDB, " in line]
    return text, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_command_writes_a_row_for_each_way_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--rows", "400", "900", "--dim", "16", "--kinds", "IvfSq", "IvfFlat"]
    _, rows = written(tmp_path, monkeypatch, *flags)
    ways = ["numpy, in memory", "LanceDB, all rows", "LanceDB, IvfSq", "LanceDB, IvfFlat"]
    assert [row[:2] for row in rows] == [[size, way] for size in ("400", "900") for way in ways]
    assert all(row[4] == row[8] == "1.0000" for row in rows)
    assert all(float(row[6]) <= float(row[7]) for row in rows)


def test_it_measures_what_bulk_embed_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_parts(tmp_path / "embedded", clustered(300))
    write_part(data, 3, [row("unread", None)])
    text, rows = written(tmp_path, monkeypatch, "--data", str(data))
    assert {row[0] for row in rows} == {"295"}
    assert "| vectors | of embedded |" in text
    assert "| width | 16 |" in text
    assert str(tmp_path) not in text
