from __future__ import annotations

import asyncio

import pytest

from bundle.errors import Unavailable
from service.flights import Flight, Flights, all_landed


class Work:
    """A coroutine that waits to be let go, and counts how often it was begun and cancelled."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.ended = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return 42

    def end(self, _: asyncio.Task[int]) -> None:
        self.ended += 1


async def wait_for(flights: Flights[int], key: str, work: Work) -> int:
    flight = flights.join(key, work, work.end)
    try:
        await all_landed([flight])
        return flight.result()
    finally:
        flights.leave(key, flight)


async def test_whoever_asks_for_the_same_shares_one_task() -> None:
    flights, work = Flights[int](), Work()
    waiting = [asyncio.create_task(wait_for(flights, "a", work)) for _ in range(5)]
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(*waiting) == [42] * 5
    assert (work.begun, work.ended) == (1, 1)
    assert "a" not in flights


async def test_one_who_leaves_does_not_take_the_others_along() -> None:
    flights, work = Flights[int](), Work()
    stays, leaves = (asyncio.create_task(wait_for(flights, "a", work)) for _ in range(2))
    await asyncio.sleep(0.01)
    leaves.cancel()
    await asyncio.sleep(0.01)
    assert work.cancelled == 0
    work.go.set()
    assert await stays == 42


async def test_the_last_one_to_leave_ends_the_task_and_the_next_begins_anew() -> None:
    flights, work = Flights[int](), Work()
    waiting = [asyncio.create_task(wait_for(flights, "a", work)) for _ in range(2)]
    await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert "a" not in flights  # although the task has not seen its cancellation yet
    work.go.set()
    assert await wait_for(flights, "a", work) == 42
    await asyncio.sleep(0)
    assert (work.begun, work.cancelled, work.ended) == (2, 1, 2)


async def test_the_end_is_told_even_of_a_task_that_never_took_a_step() -> None:
    flights, work = Flights[int](), Work()
    flight = flights.join("a", work, work.end)
    flights.leave("a", flight)
    await asyncio.sleep(0.01)
    assert (work.begun, work.ended) == (0, 1)


async def test_an_error_reaches_everybody_and_is_not_remembered() -> None:
    flights: Flights[int] = Flights()
    begun = 0

    async def fail() -> int:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        raise ValueError("no")

    for expected in (1, 2):
        boarded: list[Flight[int]] = [flights.join("a", fail, lambda _: None) for _ in range(2)]
        await all_landed(boarded)
        for flight in boarded:
            with pytest.raises(ValueError, match="no"):
                flight.result()
            flights.leave("a", flight)
        assert begun == expected


async def test_closing_is_unavailability_for_those_who_wait() -> None:
    flights, work = Flights[int](), Work()
    waiting = asyncio.create_task(wait_for(flights, "a", work))
    await asyncio.sleep(0.01)
    await flights.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_waiting_for_nothing_ends_at_once() -> None:
    await asyncio.wait_for(all_landed([]), 1)
