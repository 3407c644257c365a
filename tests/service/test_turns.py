"""Fair queueing, on made-up seconds."""

from __future__ import annotations

from collections import Counter

import pytest

from service.turns import Turns


def serve(turns: Turns[str], costs: dict[str, float], total_s: float) -> dict[str, float]:
    """Serve kinds that always have work, one at a time. The seconds that each got."""
    given: Counter[str] = Counter()
    while given.total() < total_s:
        kind = turns.next(costs)
        turns.end(kind, turns.begin(kind), costs[kind])
        given[kind] += costs[kind]  # type: ignore[assignment]
    return dict(given)


def entered(*kinds: str) -> Turns[str]:
    turns: Turns[str] = Turns()
    for kind in kinds:
        turns.enter(kind)
    return turns


def test_kinds_get_equal_time_whatever_a_turn_costs() -> None:
    given = serve(entered("long", "short", "middle"), {"long": 0.5, "short": 0.01, "middle": 0.1}, 60)
    assert given == {kind: pytest.approx(20, abs=0.5) for kind in ("long", "short", "middle")}


def test_idleness_is_no_credit() -> None:
    turns = entered("a")
    serve(turns, {"a": 1.0}, 100)
    turns.enter("b")
    assert serve(turns, {"a": 1.0, "b": 1.0}, 20) == {"a": pytest.approx(10, abs=1), "b": pytest.approx(10, abs=1)}


def test_leaving_and_coming_back_is_no_credit_either() -> None:
    turns = entered("a", "b")
    given: Counter[str] = Counter()
    for _ in range(100):
        kind = turns.next(("a", "b"))
        turns.end(kind, turns.begin(kind), 1.0)
        turns.enter("b")  # as if it had run empty each time
        given[kind] += 1
    assert given["b"] <= 51


def test_turns_that_run_at_once_see_each_other() -> None:
    """Two lanes that take the next before either has ended do not both serve the same kind."""
    turns = entered("a", "b")
    serve(turns, {"a": 1.0, "b": 1.0}, 10)
    first = turns.next(("a", "b"))
    turns.begin(first)
    assert turns.next(("a", "b")) != first


def test_a_hiccup_does_not_shut_its_kind_out_for_as_long() -> None:
    turns = entered("a", "b")
    serve(turns, {"a": 0.01, "b": 0.01}, 1)
    turns.end("a", turns.begin("a"), 30.0)
    waited = 0
    while (kind := turns.next(("a", "b"))) != "a":
        turns.end(kind, turns.begin(kind), 0.01)
        waited += 1
    assert waited <= 5
