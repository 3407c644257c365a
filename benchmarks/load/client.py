"""Our own clients: a closed loop where wrk is missing, and an open one, whose requests do not wait for answers.

An open loop's latency counts from the moment at which a request was meant to be sent, so that a server which holds the
client up is charged for it (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import uvloop

from benchmarks.load.outcome import Outcome, summed_up
from benchmarks.load.requests import Target, first_number

TIMEOUT_S = 30.0


class _Connection:
    """One connection, kept alive for as long as the server keeps it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, number: int) -> bytes | None:
        """The answer's body, if it came, has status 200 and a right length."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._ask(number)
        except (OSError, EOFError, ValueError):  # TimeoutError is an OSError
            self.close()
            return None

    async def _ask(self, number: int) -> bytes | None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._target.port)
        reader, writer = self._streams
        writer.write(self._target.request(number))
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        headers = {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        length = int(headers.get(b"content-length", b"none"))  # ValueError without one, which no server here sends
        body = await reader.readexactly(length)
        if headers.get(b"connection") == b"close":
            self.close()
        least, most = self._target.answer_bytes
        return body if status.startswith(b"http/1.1 200") and least <= length <= most else None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class _Tally:
    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0

    def add(self, latency_s: float, *, right: bool) -> None:
        if right:
            self.latencies_s.append(latency_s)
        else:
            self.errors += 1


def closed_loop(target: Target, clients: int, seconds: float) -> Outcome:
    """Clients that each send a request once the last is answered; those answered within `seconds` count."""
    tally, cpu_s = _Tally(), time.process_time()
    uvloop.run(_closed_loop(target, clients, seconds, tally))
    return summed_up(tally.latencies_s, tally.errors, seconds, time.process_time() - cpu_s)


async def _closed_loop(target: Target, clients: int, seconds: float, tally: _Tally) -> None:
    numbers, until = itertools.count(first_number()), time.perf_counter() + seconds

    async def client() -> None:
        connection = _Connection(target)
        while (start := time.perf_counter()) < until:
            right = await connection.ask(next(numbers)) is not None
            if (end := time.perf_counter()) < until:
                tally.add(end - start, right=right)
            if not right:
                await asyncio.sleep(0.01)  # a server that refuses connections is not to be hammered
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))


def open_loop(target: Target, rate: float, seconds: float, *, seed: int = 0) -> Outcome:
    """`rate` requests per second on average, at random (Poisson), for `seconds`; the last answer is waited for.

    ValueError for a rate that is not above 0.
    """
    if not rate > 0:
        raise ValueError(f"rate must be above 0, got {rate}")
    tally, cpu_s = _Tally(), time.process_time()
    uvloop.run(_open_loop(target, list(arrivals(rate, seconds, seed)), tally))
    return summed_up(tally.latencies_s, tally.errors, seconds, time.process_time() - cpu_s)


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Moments in [0, seconds), in seconds: a Poisson process, whose gaps are exponential with mean 1 / rate."""
    rng, at = np.random.default_rng(seed), 0.0
    while (at := at + float(rng.exponential(1 / rate))) < seconds:
        yield at


async def _open_loop(target: Target, moments: list[float], tally: _Tally) -> None:
    idle: list[_Connection] = []
    start = time.perf_counter() + 0.01

    async def one(number: int, due: float) -> None:
        connection = idle.pop() if idle else _Connection(target)
        right = await connection.ask(number) is not None
        tally.add(time.perf_counter() - due, right=right)
        idle.append(connection)

    async with asyncio.TaskGroup() as tasks:
        for number, moment in enumerate(moments, first_number()):
            due = start + moment
            await asyncio.sleep(due - time.perf_counter())
            tasks.create_task(one(number, due))
    for connection in idle:
        connection.close()


def answer(target: Target, number: int) -> bytes | None:
    """The answer to the request of this number, which waits behind all before it; None where it is not a right one."""

    async def ask() -> bytes | None:
        connection = _Connection(target)
        try:
            return await connection.ask(number)
        finally:
            connection.close()

    return uvloop.run(ask())
