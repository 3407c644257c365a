from __future__ import annotations

import pytest

from bundle.errors import Overloaded
from service.admission import Admission


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_places_are_taken_all_or_none() -> None:
    admission = Admission(10)
    admission.enter(8, "embed")
    with pytest.raises(Overloaded, match="8 images are waiting or being worked on, 10 at most"):
        admission.enter(3, "embed")
    assert admission.pending == 8
    admission.enter(2, "embed")
    admission.leave("embed", finished=False)
    admission.enter(1, "embed")


def test_the_time_to_wait_is_what_the_queue_takes_at_the_measured_pace() -> None:
    clock = Clock()
    admission = Admission(50, clock=clock)
    admission.enter(50, "embed")
    for _ in range(20):
        clock.now += 0.2
        admission.leave("embed", finished=True)
    admission.enter(20, "embed")
    with pytest.raises(Overloaded) as refused:
        admission.enter(1, "embed")
    assert refused.value.retry_after_s == pytest.approx(50 * 0.2)


def test_idle_time_does_not_count_as_work() -> None:
    clock = Clock()
    admission = Admission(10, clock=clock)
    for _ in range(5):
        admission.enter(1, "embed")
        clock.now += 0.1
        admission.leave("embed", finished=True)
        clock.now += 60
    admission.enter(4, "embed")
    assert admission.drain_s() == pytest.approx(4 * 0.1)


def test_the_pace_follows_a_change() -> None:
    clock = Clock()
    admission = Admission(1000, clock=clock)
    admission.enter(1000, "embed")
    for gap_s in [0.01] * 100 + [1.0] * 100:
        clock.now += gap_s
        admission.leave("embed", finished=True)
    assert admission.drain_s() == pytest.approx(800 * 1.0, rel=0.02)


def test_what_was_given_up_says_nothing_about_the_pace() -> None:
    clock = Clock()
    admission = Admission(10, clock=clock)
    admission.enter(10, "embed")
    clock.now += 1
    admission.leave("embed", finished=True)
    for _ in range(5):
        admission.leave("embed", finished=False)
    assert admission.drain_s() == pytest.approx(4 * 1.0)


def test_before_any_measurement_it_says_a_second() -> None:
    admission = Admission(1)
    admission.enter(1, "embed")
    assert admission.drain_s() == 1


def test_reconstructions_leave_half_of_the_places_to_others() -> None:
    admission = Admission(10)
    for _ in range(5):
        admission.enter(1, "reconstruct")
    with pytest.raises(Overloaded, match="5 images are waiting or being worked on for reconstruct, 5 at most"):
        admission.enter(1, "reconstruct")
    admission.enter(5, "embed")
    assert (admission.pending, admission.pending_of("reconstruct"), admission.pending_of("embed")) == (10, 5, 5)
    with pytest.raises(Overloaded, match="10 images are waiting or being worked on, 10 at most"):
        admission.enter(1, "embed")
    admission.leave("reconstruct", finished=True)
    admission.enter(1, "reconstruct")


def test_a_single_place_is_enough_for_any_operation() -> None:
    admission = Admission(1)
    admission.enter(1, "reconstruct")
    with pytest.raises(Overloaded):
        admission.enter(1, "embed")


def test_each_operation_is_told_its_own_time() -> None:
    """Embeddings every 0.1 s and reconstructions every 2 s, side by side."""
    clock = Clock()
    admission = Admission(40, clock=clock)
    admission.enter(20, "reconstruct")
    admission.enter(20, "embed")
    for tick in range(1, 81):
        clock.now += 0.1
        admission.leave("embed", finished=True)
        admission.enter(1, "embed")
        if tick % 20 == 0:
            admission.leave("reconstruct", finished=True)
            admission.enter(1, "reconstruct")
    with pytest.raises(Overloaded) as refused:
        admission.enter(1, "embed")
    assert refused.value.retry_after_s == pytest.approx(20 * 0.1)
    for _ in range(10):
        admission.leave("embed", finished=False)
    with pytest.raises(Overloaded) as refused:
        admission.enter(1, "reconstruct")
    assert refused.value.retry_after_s == pytest.approx(20 * 2)
    assert admission.drain_s() == pytest.approx(20 * 2)


def test_an_operation_with_too_few_places_promises_none() -> None:
    """One embedding is soon done, but that does not make room for two images."""
    clock = Clock()
    admission = Admission(4, clock=clock)
    admission.enter(3, "classify")
    admission.enter(1, "embed")
    clock.now += 0.1
    admission.leave("embed", finished=True)
    admission.enter(1, "embed")
    clock.now += 4.9
    admission.leave("classify", finished=True)
    admission.enter(1, "classify")
    with pytest.raises(Overloaded) as refused:
        admission.enter(2, "embed")
    assert refused.value.retry_after_s == pytest.approx(3 * 5)
