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
    admission.enter(8)
    with pytest.raises(Overloaded, match="8 images are waiting or being worked on, 10 at most"):
        admission.enter(3)
    assert admission.pending == 8
    admission.enter(2)
    admission.leave(finished=False)
    admission.enter(1)


def test_the_time_to_wait_is_what_the_queue_takes_at_the_measured_pace() -> None:
    clock = Clock()
    admission = Admission(50, clock=clock)
    admission.enter(50)
    for _ in range(20):
        clock.now += 0.2
        admission.leave(finished=True)
    admission.enter(20)
    with pytest.raises(Overloaded) as refused:
        admission.enter(1)
    assert refused.value.retry_after_s == pytest.approx(50 * 0.2)


def test_idle_time_does_not_count_as_work() -> None:
    clock = Clock()
    admission = Admission(10, clock=clock)
    for _ in range(5):
        admission.enter(1)
        clock.now += 0.1
        admission.leave(finished=True)
        clock.now += 60
    admission.enter(4)
    assert admission.drain_s() == pytest.approx(4 * 0.1)


def test_the_pace_follows_a_change() -> None:
    clock = Clock()
    admission = Admission(1000, clock=clock)
    admission.enter(1000)
    for gap_s in [0.01] * 100 + [1.0] * 100:
        clock.now += gap_s
        admission.leave(finished=True)
    assert admission.drain_s() == pytest.approx(800 * 1.0, rel=0.02)


def test_what_was_given_up_says_nothing_about_the_pace() -> None:
    clock = Clock()
    admission = Admission(10, clock=clock)
    admission.enter(10)
    clock.now += 1
    admission.leave(finished=True)
    for _ in range(5):
        admission.leave(finished=False)
    assert admission.drain_s() == pytest.approx(4 * 1.0)


def test_before_any_measurement_it_says_a_second() -> None:
    admission = Admission(1)
    admission.enter(1)
    assert admission.drain_s() == 1
