"""The decode pool: as far ahead as the device needs, in order, and nobody's error but the sender's."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from bundle.errors import DeadlineExceeded, InvalidInput, Unavailable
from service.decoding import DecodePool
from service.programs import Item, Operation

TIMEOUT_S = 10
NO_IDS = np.empty(0, np.int64)


def item(name: str) -> Item:
    return Item(name.encode(), NO_IDS)


class Decodes:
    """Remembers what it decoded; holds it up while it is told to."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, encoded: Item) -> Item:
        assert isinstance(encoded.image, bytes)
        self.names.append(encoded.image.decode())
        assert self.open.wait(TIMEOUT_S)
        if encoded.image.startswith(b"broken"):
            raise InvalidInput(encoded.image.decode())
        return Item(np.frombuffer(encoded.image, np.uint8), NO_IDS)


class Consumer:
    """Takes decoded items, and keeps each until it is told to let go."""

    def __init__(self, pool: DecodePool) -> None:
        self.pool = pool
        self.let_go = asyncio.Event()

    async def take(self, name: str, operation: Operation = "embed", deadline: float = float("inf")) -> str:
        async with self.pool.decoded(operation, item(name), deadline=deadline) as done:
            await self.let_go.wait()
            return done.value.pixels.tobytes().decode()


async def settle() -> None:
    """Time for whatever would happen wrongly."""
    await asyncio.sleep(0.03)


async def test_it_works_ahead_as_far_as_the_device_needs() -> None:
    decodes = Decodes()
    pool = DecodePool(decodes, threads=2, ahead=lambda: 3)
    consumer = Consumer(pool)
    tasks = [asyncio.create_task(consumer.take(f"{i}")) for i in range(20)]
    await settle()
    assert sorted(map(int, decodes.names)) == [0, 1, 2, 3, 4]  # three for the device, and one for each thread
    tasks[0].cancel()
    await settle()
    assert len(decodes.names) == 6
    consumer.let_go.set()
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT_S)
    assert ends[1:] == [f"{i}" for i in range(1, 20)]
    assert sorted(map(int, decodes.names)) == list(range(20))
    await pool.close()


async def test_an_operation_that_fills_its_window_leaves_the_others_theirs() -> None:
    decodes = Decodes()
    pool = DecodePool(decodes, threads=1, ahead=lambda: 2)
    consumer = Consumer(pool)
    flood = [asyncio.create_task(consumer.take(f"r{i}", "reconstruct")) for i in range(10)]
    await settle()
    one = asyncio.create_task(consumer.take("e", "embed"))
    await settle()
    assert decodes.names == ["r0", "r1", "r2", "e"]
    consumer.let_go.set()
    await asyncio.wait_for(asyncio.gather(one, *flood), TIMEOUT_S)
    await pool.close()


async def test_a_broken_image_is_its_senders_alone_and_holds_no_place() -> None:
    pool = DecodePool(Decodes(), threads=1, ahead=lambda: 0)
    consumer = Consumer(pool)
    consumer.let_go.set()
    names = [f"broken{i}" if i % 2 else f"{i}" for i in range(10)]
    ends = await asyncio.wait_for(
        asyncio.gather(*(consumer.take(name) for name in names), return_exceptions=True), TIMEOUT_S
    )
    assert [str(end) for end in ends] == names
    assert [isinstance(end, InvalidInput) for end in ends] == [False, True] * 5
    await pool.close()


async def test_what_is_cancelled_or_too_late_is_not_decoded_and_holds_no_place() -> None:
    decodes = Decodes()
    pool = DecodePool(decodes, threads=1, ahead=lambda: 0)
    consumer = Consumer(pool)
    consumer.let_go.set()
    decodes.open.clear()
    first = asyncio.create_task(consumer.take("first"))
    await settle()
    gone = [asyncio.create_task(consumer.take(f"gone{i}")) for i in range(5)]
    late = asyncio.create_task(consumer.take("late", deadline=time.monotonic() + 0.02))
    urgent = asyncio.create_task(consumer.take("urgent", deadline=time.monotonic() + 100))
    last = asyncio.create_task(consumer.take("last"))
    await settle()
    for task in (first, *gone):  # the first while it is being decoded
        task.cancel()
    decodes.open.set()
    assert [await asyncio.wait_for(task, TIMEOUT_S) for task in (urgent, last)] == ["urgent", "last"]
    with pytest.raises(DeadlineExceeded):
        await late
    assert decodes.names == ["first", "urgent", "last"]
    await pool.close()


async def test_closing_fails_what_waits() -> None:
    decodes = Decodes()
    pool = DecodePool(decodes, threads=1, ahead=lambda: 0)
    consumer = Consumer(pool)
    consumer.let_go.set()
    decodes.open.clear()
    running = asyncio.create_task(consumer.take("running"))
    waiting = asyncio.create_task(consumer.take("waiting"))
    await settle()
    closing = asyncio.create_task(pool.close())
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, TIMEOUT_S)
    decodes.open.set()
    assert await asyncio.wait_for(running, TIMEOUT_S) == "running"
    await asyncio.wait_for(closing, TIMEOUT_S)
    with pytest.raises(Unavailable):
        await consumer.take("too late")
