"""The batcher's promises: no timer, nothing starves, one bad item fails alone, a future always resolves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.errors import DeadlineExceeded, InferenceError, OutOfMemory, Unavailable
from service.batcher import Batcher, Done

TIMEOUT_S = 10


class Poisoned(Exception):
    pass


class Device:
    """Doubles numbers, in calls that can be held up; remembers every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.poison: set[int] = set()
        self.most = 1000  # items that fit into its memory
        self._open = threading.Event()
        self._open.set()
        self.entered = threading.Semaphore(0)

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def is_entered(self) -> bool:
        """Wait for the next call to begin."""
        return await asyncio.to_thread(self.entered.acquire, timeout=TIMEOUT_S)

    def run(self, key: str, items: list[int]) -> Sequence[int]:
        self.calls.append((key, items))
        self.entered.release()
        assert self._open.wait(TIMEOUT_S)
        if len(items) > self.most:
            raise OutOfMemory(f"{len(items)} do not fit")
        if self.poison & set(items):
            raise Poisoned(self.poison & set(items))
        return [2 * item for item in items]


@asynccontextmanager
async def batching(device: Device, *, lanes: int = 1, max_batch: int = 8) -> AsyncIterator[Batcher[str, int, int]]:
    batcher: Batcher[str, int, int] = Batcher(device.run, lanes=lanes, max_batch=max_batch)
    try:
        yield batcher
    finally:
        device.release()
        await batcher.close()


@asynccontextmanager
async def busy(device: Device, batcher: Batcher[str, int, int], lanes: int = 1) -> AsyncIterator[None]:
    """All lanes are held up by a call of their own until the block ends."""
    device.hold()
    for _ in range(lanes):
        batcher.submit("busy", -1)
        assert await device.is_entered()
    yield
    device.release()


async def value(future: asyncio.Future[Done[int]]) -> int:
    return (await asyncio.wait_for(future, TIMEOUT_S)).value


async def test_an_idle_lane_takes_a_single_item_at_once() -> None:
    device = Device()
    async with batching(device) as batcher:
        start = time.perf_counter()
        assert await value(batcher.submit("a", 21)) == 42
        assert time.perf_counter() - start < 1
    assert device.calls == [("a", [21])]


async def test_the_batch_grows_while_the_lane_is_busy_up_to_the_cap() -> None:
    device = Device()
    async with batching(device, max_batch=4) as batcher:
        async with busy(device, batcher):
            futures = [batcher.submit("a", i) for i in range(6)]
        assert [await value(f) for f in futures] == [0, 2, 4, 6, 8, 10]
    assert device.calls[1:] == [("a", [0, 1, 2, 3]), ("a", [4, 5])]


async def test_keys_never_share_a_call() -> None:
    device = Device()
    async with batching(device) as batcher:
        async with busy(device, batcher):
            futures = [batcher.submit("ab"[i % 2], i) for i in range(4)]
        assert [await value(f) for f in futures] == [0, 2, 4, 6]
    assert device.calls[1:] == [("a", [0, 2]), ("b", [1, 3])]


async def test_the_most_urgent_goes_first_across_keys_and_within_one() -> None:
    device = Device()
    async with batching(device, max_batch=2) as batcher, busy(device, batcher):
        futures = [
            batcher.submit(key, item, deadline=time.monotonic() + 100 * deadline)
            for key, item, deadline in [("a", 1, 9.0), ("b", 2, 5.0), ("a", 3, 7.0), ("a", 4, 3.0), ("b", 5, 8.0)]
        ]
        device.release()
        await asyncio.wait(futures, timeout=TIMEOUT_S)
    assert device.calls[1:] == [("a", [4, 3]), ("b", [2, 5]), ("a", [1])]


async def test_of_equal_deadlines_the_first_come_is_served_first() -> None:
    device = Device()
    async with batching(device, max_batch=1) as batcher, busy(device, batcher):
        futures = [batcher.submit("a", i) for i in range(20)]
        device.release()
        await asyncio.wait(futures, timeout=TIMEOUT_S)
    assert [items for _, items in device.calls[1:]] == [[i] for i in range(20)]


async def test_cancelled_work_never_reaches_the_device() -> None:
    device = Device()
    async with batching(device) as batcher:
        async with busy(device, batcher):
            futures = [batcher.submit("a", i) for i in range(4)]
            assert futures[1].cancel()
            alone = batcher.submit("b", 9)
            assert alone.cancel()
        assert [await value(f) for i, f in enumerate(futures) if i != 1] == [0, 4, 6]
    assert device.calls[1:] == [("a", [0, 2, 3])]


async def test_as_many_calls_run_at_once_as_there_are_lanes() -> None:
    device = Device()
    async with batching(device, lanes=3, max_batch=1) as batcher, busy(device, batcher, lanes=3):
        batcher.submit("a", 1)
        assert not device.entered.acquire(timeout=0.05)  # the fourth waits


async def test_lanes_that_are_idle_together_share_what_waits() -> None:
    device = Device()
    async with batching(device, lanes=2) as batcher:
        device.hold()
        with batcher._changed:  # no lane can look before all have come
            futures = [batcher.submit("a", i) for i in range(5)]
        for _ in range(2):
            assert await device.is_entered()
        device.release()
        assert [await value(f) for f in futures] == [0, 2, 4, 6, 8]
    assert sorted(items for _, items in device.calls) == [[0, 1, 2], [3, 4]]


async def test_an_item_that_fails_by_itself_costs_its_batch_nothing() -> None:
    calls = []

    def run(_: str, items: list[int]) -> list[int | Exception]:
        calls.append(items)
        return [Poisoned(item) if item == 2 else item for item in items]

    batcher: Batcher[str, int, int] = Batcher(run, lanes=1, max_batch=8)
    with batcher._changed:
        futures = [batcher.submit("a", i) for i in range(4)]
    assert [await value(f) for f in futures if f is not futures[2]] == [0, 1, 3]
    with pytest.raises(Poisoned):
        await value(futures[2])
    assert calls == [[0, 1, 2, 3]]
    await batcher.close()


async def test_one_poisoned_item_of_a_batch_fails_alone() -> None:
    device = Device()
    device.poison = {5}
    async with batching(device) as batcher:
        async with busy(device, batcher):
            futures = [batcher.submit("a", i) for i in range(8)]
        assert [await value(f) for f in futures if f is not futures[5]] == [0, 2, 4, 6, 8, 12, 14]
        with pytest.raises(Poisoned):
            await value(futures[5])
        assert await value(batcher.submit("a", 10)) == 20
    assert len(device.calls) - 2 <= 1 + 2 * 3  # the batch, then two halves per level of three


async def test_out_of_memory_halves_the_cap_for_good_and_loses_nothing() -> None:
    device = Device()
    device.most = 3
    async with batching(device, max_batch=8) as batcher:
        async with busy(device, batcher):
            futures = [batcher.submit("a", i) for i in range(8)]
        assert [await value(f) for f in futures] == [2 * i for i in range(8)]
        assert batcher.cap == 2
        device.calls.clear()
        async with busy(device, batcher):
            futures = [batcher.submit("a", i) for i in range(4)]
        await asyncio.wait(futures, timeout=TIMEOUT_S)
    assert device.calls[1:] == [("a", [0, 1]), ("a", [2, 3])]


async def test_an_item_that_never_fits_gets_the_error() -> None:
    device = Device()
    device.most = 0
    async with batching(device) as batcher:
        with pytest.raises(OutOfMemory):
            await value(batcher.submit("a", 1))


async def test_a_device_that_loses_results_is_an_error_not_a_mix_up() -> None:
    batcher: Batcher[str, int, int] = Batcher(lambda _, items: items[:0], lanes=1, max_batch=4)
    with pytest.raises(InferenceError, match="0 results for 1 items"):
        await value(batcher.submit("a", 1))
    await batcher.close()


async def test_a_call_that_exits_ends_neither_the_lane_nor_the_caller() -> None:
    def run(_: str, items: list[int]) -> list[int]:
        if items == [0]:
            raise SystemExit(3)
        return items

    batcher: Batcher[str, int, int] = Batcher(run, lanes=1, max_batch=1)
    with pytest.raises(InferenceError, match="SystemExit"):
        await value(batcher.submit("a", 0))
    assert await value(batcher.submit("a", 7)) == 7
    assert batcher.alive
    await batcher.close()


async def test_close_finishes_what_runs_and_fails_what_waits() -> None:
    device = Device()
    batcher: Batcher[str, int, int] = Batcher(device.run, lanes=1, max_batch=1)
    device.hold()
    running = batcher.submit("a", 1)
    assert await device.is_entered()
    waiting = batcher.submit("a", 2)
    closing = asyncio.create_task(batcher.close())
    with pytest.raises(Unavailable):
        await value(waiting)
    device.release()
    assert await value(running) == 2
    await asyncio.wait_for(closing, TIMEOUT_S)
    await batcher.close()  # again, without effect
    with pytest.raises(Unavailable):
        batcher.submit("a", 3)


async def test_times_tell_waiting_from_working() -> None:
    device = Device()
    async with batching(device) as batcher:
        async with busy(device, batcher):
            future = batcher.submit("a", 1)
            await asyncio.sleep(0.05)
        done = await asyncio.wait_for(future, TIMEOUT_S)
    assert done.queue_s >= 0.05
    assert done.infer_s < done.queue_s


async def test_it_refuses_no_lanes_and_no_batch() -> None:
    for lanes, max_batch in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            Batcher(lambda _, items: items, lanes=lanes, max_batch=max_batch)


async def test_even_stop_iteration_reaches_the_caller() -> None:
    def run(_: str, items: list[int]) -> list[int | Exception]:
        if items == [0]:
            raise StopIteration
        return [StopIteration()]

    batcher: Batcher[str, int, int] = Batcher(run, lanes=1, max_batch=1)
    for item in (0, 1):
        with pytest.raises(InferenceError, match="StopIteration"):
            await value(batcher.submit("a", item))
    await batcher.close()


FATES = st.sampled_from(["fine", "fine", "fine", "poison", "hungry", "exit"])


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(st.tuples(FATES, st.sampled_from("ab"), st.floats(1000, 1010), st.booleans()), max_size=40),
    lanes=st.integers(1, 3),
    max_batch=st.integers(1, 6),
    delay_ms=st.sampled_from([0.0, 0.0, 0.5]),
    close_early=st.booleans(),
)
def test_every_future_resolves_with_its_own_result_or_its_own_error(
    jobs: list[tuple[str, str, float, bool]], lanes: int, max_batch: int, delay_ms: float, close_early: bool
) -> None:
    async def meet() -> None:
        batcher = Batcher(fateful(delay_ms / 1000), lanes=lanes, max_batch=max_batch)
        futures = []
        for number, (fate, key, deadline, cancel) in enumerate(jobs):
            future = batcher.submit(key, (number, fate), deadline=time.monotonic() + deadline)
            if cancel:
                future.cancel()
            futures.append(future)
        if close_early:
            await batcher.close()
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*futures, return_exceptions=True)
        await batcher.close()
        for number, (future, (fate, key, _, cancel)) in enumerate(zip(futures, jobs, strict=True)):
            allowed = {"fine"} if fate in ("fine", "hungry") else {fate}
            allowed |= ({"cancelled"} if cancel else set()) | ({"closed"} if close_early else set())
            assert ending(future, (key, number)) in allowed
        assert batcher.cap >= 1

    asyncio.run(meet())


def fateful(delay_s: float) -> Callable[[str, list[tuple[int, str]]], list[tuple[str, int]]]:
    """A device to which each item does what its fate says."""

    def run(key: str, items: list[tuple[int, str]]) -> list[tuple[str, int]]:
        time.sleep(delay_s)
        fates = {fate for _, fate in items}
        if "exit" in fates:
            raise KeyboardInterrupt
        if "hungry" in fates and len(items) > 1:
            raise OutOfMemory("too many")
        if "poison" in fates:
            raise Poisoned
        return [(key, number) for number, _ in items]

    return run


def ending(future: asyncio.Future[Done[tuple[str, int]]], own: tuple[str, int]) -> str:
    """The fate that a future's end betrays."""
    try:
        assert future.result().value == own
    except asyncio.CancelledError:
        return "cancelled"
    except Unavailable:
        return "closed"
    except Poisoned:
        return "poison"
    except InferenceError:
        return "exit"
    return "fine"


async def test_a_flood_of_one_kind_does_not_starve_another() -> None:
    """A hundred slow calls wait when a quick one comes: it is the next, or the one after, not the hundredth."""
    order: list[str] = []

    def run(key: str, items: list[int]) -> list[int]:
        order.append(key)
        time.sleep(0.004 if key == "slow" else 0.001)
        return items

    batcher: Batcher[str, int, int] = Batcher(run, lanes=1, max_batch=1, kind_of=lambda key: key)
    flood = [batcher.submit("slow", i) for i in range(100)]
    await asyncio.wait_for(flood[5], TIMEOUT_S)
    for i in range(10):
        before = len(order)
        await value(batcher.submit("quick", i))
        assert order[before:].index("quick") <= 2
    await batcher.close()


async def test_alone_a_kind_has_all_lanes() -> None:
    device = Device()
    batcher: Batcher[str, int, int] = Batcher(device.run, lanes=3, max_batch=1, kind_of=lambda key: key)
    async with busy(device, batcher, lanes=3):
        assert len(device.calls) == 3
    await batcher.close()


async def test_lanes_leave_keys_that_others_can_take() -> None:
    device = Device()
    async with batching(device, lanes=2) as batcher:
        device.hold()
        for i in range(8):
            batcher.submit("ab"[i % 2], i)
        for _ in range(2):
            assert await device.is_entered()
        device.release()
    assert sorted(device.calls) == [("a", [0, 2, 4, 6]), ("b", [1, 3, 5, 7])]


@pytest.mark.parametrize(
    ("waiting", "sizes"),
    [
        (1, [1]),  # less than the smallest
        (2, [2]),
        (3, [3]),  # three quarters of four
        (5, [4, 1]),
        (6, [6]),
        (9, [8, 1]),
        (13, [8, 4, 1]),  # sixteen is more than the cap
    ],
)
async def test_calls_fill_buckets(waiting: int, sizes: list[int]) -> None:
    device = Device()
    batcher: Batcher[str, int, int] = Batcher(device.run, lanes=1, max_batch=12, buckets=(2, 4, 8))
    async with busy(device, batcher):
        futures = [batcher.submit("a", i) for i in range(waiting)]
    await asyncio.wait(futures, timeout=TIMEOUT_S)
    assert [len(items) for _, items in device.calls[1:]] == sizes
    await batcher.close()


async def test_what_is_too_late_is_not_run() -> None:
    device = Device()
    async with batching(device) as batcher:
        async with busy(device, batcher):
            late = batcher.submit("a", 1, deadline=time.monotonic() + 0.01)
            good = batcher.submit("a", 2, deadline=time.monotonic() + 100)
            await asyncio.sleep(0.02)
        with pytest.raises(DeadlineExceeded):
            await value(late)
        assert await value(good) == 4
    assert device.calls[1:] == [("a", [2])]


async def test_what_was_cancelled_takes_no_memory_while_nobody_looks() -> None:
    device = Device()
    async with batching(device) as batcher, busy(device, batcher):
        stays = batcher.submit("a", 7)
        for i in range(5000):
            batcher.submit("abc"[i % 3], i).cancel()
        assert len(batcher._waiting) < 200
        device.release()
        assert await value(stays) == 14


async def test_memory_of_one_kind_says_nothing_of_another() -> None:
    def run(key: str, items: list[int]) -> list[int]:
        if key == "large" and len(items) > 2:
            raise OutOfMemory("too many")
        sizes.append((key, len(items)))
        return items

    sizes: list[tuple[str, int]] = []
    batcher: Batcher[str, int, int] = Batcher(run, lanes=1, max_batch=8, kind_of=lambda key: key)
    for key in ("large", "small", "large"):
        await asyncio.gather(*(batcher.submit(key, i) for i in range(8)))
    assert sizes == [("large", 2)] * 4 + [("small", 8)] + [("large", 2)] * 4
    assert batcher.cap == 2
    await batcher.close()


async def test_a_single_item_that_does_not_fit_shrinks_nobody() -> None:
    device = Device()
    device.most = 0
    async with batching(device, max_batch=8) as batcher:
        with pytest.raises(OutOfMemory):
            await value(batcher.submit("a", 1))
        assert batcher.cap == 8


async def test_one_error_for_many_is_an_object_for_each() -> None:
    error = Poisoned("all of you")
    batcher: Batcher[str, int, int] = Batcher(lambda _, items: [error] * len(items), lanes=1, max_batch=4)
    endings = await asyncio.gather(*(batcher.submit("a", i) for i in range(4)), return_exceptions=True)
    assert [repr(ending) for ending in endings] == [repr(error)] * 4
    assert len(set(map(id, endings))) == 4
    await batcher.close()


async def test_results_that_break_when_they_are_read_cost_no_lane() -> None:
    class Broken(list[int]):
        def __iter__(self) -> Iterator[int]:
            raise Poisoned

    batcher: Batcher[str, int, int] = Batcher(lambda _, items: Broken(items), lanes=1, max_batch=4)
    with pytest.raises(Poisoned):
        await value(batcher.submit("a", 1))
    assert batcher.alive
    await batcher.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_lane_that_dies_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    batcher: Batcher[str, int, int] = Batcher(device.run, lanes=1, max_batch=1)

    def die(*_: object) -> None:
        raise MemoryError

    async with busy(device, batcher):
        waiting = batcher.submit("a", 1)
        monkeypatch.setattr(batcher, "_hand_over", die)
    with pytest.raises(Unavailable):
        await value(waiting)
    assert not batcher.alive
    with pytest.raises(Unavailable):
        batcher.submit("a", 2)
    await batcher.close()


async def test_a_call_that_never_returns_does_not_hold_up_the_end() -> None:
    device = Device()
    batcher: Batcher[str, int, int] = Batcher(device.run, lanes=2, max_batch=1)
    device.hold()
    hung = batcher.submit("a", 1)
    assert await device.is_entered()
    await asyncio.sleep(0.06)
    assert batcher.longest_call_s >= 0.05
    await asyncio.wait_for(batcher.close(patience_s=0.1), 2)
    assert not batcher.ended
    with pytest.raises(Unavailable):
        await value(hung)
    device.release()
    await asyncio.wait_for(batcher.close(), TIMEOUT_S)
    assert batcher.ended


async def test_closing_ends_a_bisection() -> None:
    device = Device()
    device.poison = {0}
    batcher: Batcher[str, int, int] = Batcher(device.run, lanes=1, max_batch=8)
    device.hold()
    futures = [batcher.submit("a", i) for i in range(8)]
    assert await device.is_entered()
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    device.release()
    endings = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), TIMEOUT_S)
    await closing
    assert len(device.calls) == 1
    assert all(isinstance(ending, Unavailable) for ending in endings)


async def test_results_may_be_ahead_by_the_window_and_no_more() -> None:
    calls: list[int] = []

    def run(_: str, items: list[int]) -> list[int | Exception]:
        calls.extend(items)
        return [Poisoned() if item == 1 else item for item in items]

    batcher: Batcher[str, int, int] = Batcher(run, lanes=2, max_batch=1, window=3)
    futures = [batcher.submit("a", i) for i in range(8)]
    await asyncio.wait(futures[:4], timeout=TIMEOUT_S)
    await asyncio.sleep(0.02)
    assert sorted(calls) == [0, 1, 2, 3]  # three are ahead, and an error is not
    batcher.give_back("a")
    await asyncio.wait_for(futures[4], TIMEOUT_S)
    assert not futures[5].done()
    batcher.widen(5)
    await asyncio.wait(futures[5:7], timeout=TIMEOUT_S)
    await asyncio.sleep(0.02)
    assert sorted(calls) == [0, 1, 2, 3, 4, 5, 6]
    await batcher.close()
