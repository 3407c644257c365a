"""What waits for a lane: kinds that take turns, keys within a kind, and per key a heap with the most urgent on top."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service.turns import Turns

K = TypeVar("K", bound=Hashable)
I = TypeVar("I")  # noqa: E741 - item

_SWEEP_FROM = 64  # jobs that are not worth looking through for cancelled ones


@dataclass(order=True)
class Job(Generic[K, I]):
    deadline: float
    order: int  # of two deadlines alike, first come first served; also keeps items from being compared
    key: K = field(compare=False)
    item: I = field(compare=False)
    future: asyncio.Future[Any] = field(compare=False)
    submitted: float = field(compare=False)
    started: float = field(compare=False, default=0.0)  # 0 until its call begins


class Waiting(Generic[K, I]):
    """Not safe across threads: the caller holds a lock."""

    def __init__(self, kind_of: Callable[[K], Hashable]) -> None:
        self.turns: Turns[Hashable] = Turns()
        self._kind_of = kind_of
        self._heaps: dict[Hashable, dict[K, list[Job[K, I]]]] = {}  # by kind and key; none of them empty
        self._num_jobs = 0
        self._sweep_at = _SWEEP_FROM

    def __len__(self) -> int:
        """Jobs, some of which may have been cancelled."""
        return self._num_jobs

    @property
    def kinds(self) -> Collection[Hashable]:
        """Those that have jobs."""
        return self._heaps.keys()

    def num_of(self, kind: Hashable) -> int:
        """The kind's jobs, some of which may have been cancelled."""
        return sum(map(len, self._heaps.get(kind, {}).values()))

    @property
    def num_keys(self) -> int:
        return sum(map(len, self._heaps.values()))

    def push(self, job: Job[K, I]) -> None:
        if self._num_jobs >= self._sweep_at:
            self._sweep()
        kind = self._kind_of(job.key)
        keys = self._heaps.get(kind)
        if keys is None:
            keys = self._heaps[kind] = {}
            self.turns.enter(kind)
        heapq.heappush(keys.setdefault(job.key, []), job)
        self._num_jobs += 1

    def most_urgent(self, kind: Hashable) -> tuple[K, int]:
        """The key of the kind's most urgent job, and how many jobs that key has."""
        keys = self._heaps[kind]
        key = min(keys, key=lambda k: keys[k][0])
        return key, len(keys[key])

    def pop(self, kind: Hashable, key: K, at_most: int, now: float) -> tuple[list[Job[K, I]], list[Job[K, I]]]:
        """The key's most urgent jobs, and those that came before them and whose deadline is over at `now`.

        What was cancelled is dropped on the way.
        """
        heap = self._heaps[kind][key]
        jobs: list[Job[K, I]] = []
        late: list[Job[K, I]] = []
        while heap and len(jobs) < at_most:
            job = heapq.heappop(heap)
            self._num_jobs -= 1
            if not job.future.cancelled():
                (late if job.deadline <= now else jobs).append(job)
        self._drop_empty(kind, key)
        return jobs, late

    def clear(self) -> list[Job[K, I]]:
        """Take all, in no order."""
        jobs = [job for keys in self._heaps.values() for heap in keys.values() for job in heap]
        self._heaps.clear()
        self._num_jobs = 0
        return jobs

    def _sweep(self) -> None:
        """Drop what was cancelled while nobody popped, so that it takes no memory.

        As many as were left may come before the next sweep, so a push costs next to nothing on average.
        """
        for kind, keys in list(self._heaps.items()):
            for key, heap in list(keys.items()):
                heap[:] = [job for job in heap if not job.future.cancelled()]
                heapq.heapify(heap)
                self._drop_empty(kind, key)
        self._num_jobs = sum(len(heap) for keys in self._heaps.values() for heap in keys.values())
        self._sweep_at = max(_SWEEP_FROM, 2 * self._num_jobs)

    def _drop_empty(self, kind: Hashable, key: K) -> None:
        if not self._heaps[kind][key]:
            del self._heaps[kind][key]
        if not self._heaps[kind]:
            del self._heaps[kind]
