"""Batches without a timer: a lane that falls idle takes what waits, up to its cap, and so a batch grows exactly while
there is nobody to run it. Lanes that are idle together share what waits.

A lane is a thread that makes one call at a time: as many as the runtime has. Work of one key may share a call; of all
keys, the one with the most urgent deadline goes first. A future always resolves: with a result, the error of its own
item, or Unavailable when the batcher closes. Cancelled work is dropped when its batch is sealed, before it costs a
thing.

Futures belong to the event loop. Lanes only ask them whether they were cancelled, and hand a batch's results over in
one step, so that the loop wakes once for all of them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bundle.errors import InferenceError, OutOfMemory, Unavailable

K = TypeVar("K", bound=Hashable)
I = TypeVar("I")  # noqa: E741 - item
R = TypeVar("R")


@dataclass(frozen=True)
class Done(Generic[R]):
    """`queue_s`: from submission to the start of the first call it was in; `infer_s`: from there to the result."""

    value: R
    queue_s: float
    infer_s: float


@dataclass(order=True)
class _Job(Generic[I, R]):
    deadline: float
    order: int  # of two deadlines alike, first come first served; also keeps items from being compared
    item: I = field(compare=False)
    future: asyncio.Future[Done[R]] = field(compare=False)
    submitted: float = field(compare=False)
    started: float = field(compare=False, default=0.0)


class Batcher(Generic[K, I, R]):
    """`run(key, items)` returns a result per item, in order, an exception in the place of one that failed by itself; it
    is called from `lanes` threads at once.

    When it raises, the batch is cut in halves that run again, until the items to blame stand alone: they get the
    error. On OutOfMemory the cap is halved as well, for good: the device will not grow.

    Make it inside the event loop that submits; its methods are for that loop's thread.
    """

    def __init__(self, run: Callable[[K, list[I]], Sequence[R | Exception]], *, lanes: int, max_batch: int) -> None:
        if lanes < 1 or max_batch < 1:
            raise ValueError(f"lanes and max_batch must be at least 1, got {lanes} and {max_batch}")
        self._loop = asyncio.get_running_loop()
        self._run = run
        self._cap = max_batch
        self._pending: dict[K, list[_Job[I, R]]] = {}  # a heap per key, never an empty one
        self._changed = threading.Condition()
        self._closed = False
        self._busy = 0
        self._order = itertools.count()
        self._lanes = [threading.Thread(target=self._lane, name=f"lane-{i}", daemon=True) for i in range(lanes)]
        for lane in self._lanes:
            lane.start()

    @property
    def cap(self) -> int:
        """Most items per call, as of now."""
        return self._cap

    @property
    def alive(self) -> bool:
        """Whether every lane's thread runs."""
        return all(lane.is_alive() for lane in self._lanes)

    def waiting(self) -> dict[K, int]:
        """How many items of each key no lane has taken yet, those included that were cancelled. For any thread."""
        with self._changed:
            return {key: len(heap) for key, heap in self._pending.items()}

    def submit(self, key: K, item: I, *, deadline: float = float("inf")) -> asyncio.Future[Done[R]]:
        """Enqueue. `deadline` only orders; whoever waits cancels the future when its time is over.

        Unavailable if the batcher is closed.
        """
        job: _Job[I, R] = _Job(deadline, next(self._order), item, self._loop.create_future(), time.perf_counter())
        with self._changed:
            if self._closed:
                raise Unavailable("the service is stopping")
            heapq.heappush(self._pending.setdefault(key, []), job)
            self._changed.notify()
        return job.future

    async def close(self) -> None:
        """Finish the calls that run, fail what waits with Unavailable, end the threads. Idempotent."""
        with self._changed:
            self._closed = True
            waiting = [job for heap in self._pending.values() for job in heap]
            self._pending.clear()
            self._changed.notify_all()
        self._resolve([(job, Unavailable("the service is stopping")) for job in waiting], 0.0)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for lane in self._lanes:
            lane.join()

    def _lane(self) -> None:
        while True:
            with self._changed:
                while not self._pending and not self._closed:
                    self._changed.wait()
                if not self._pending:
                    return
                key, jobs = self._seal()
                self._busy += 1
            self._execute(key, jobs)
            del jobs  # while this lane waits for the next, nobody should wait for their memory
            with self._changed:
                self._busy -= 1

    def _seal(self) -> tuple[K, list[_Job[I, R]]]:
        """Take the most urgent key's most urgent jobs, leaving out the cancelled: this lane's share, up to the cap.

        The caller holds the lock.
        """
        key = min(self._pending, key=lambda k: self._pending[k][0])
        heap = self._pending[key]
        idle = len(self._lanes) - self._busy
        share = min(self._cap, -(-len(heap) // idle))
        jobs: list[_Job[I, R]] = []
        while heap and len(jobs) < share:
            job = heapq.heappop(heap)
            if not job.future.cancelled():
                jobs.append(job)
        if not heap:
            del self._pending[key]
        return key, jobs

    def _execute(self, key: K, jobs: list[_Job[I, R]]) -> None:
        started = time.perf_counter()
        for job in jobs:
            job.started = started
        parts = [jobs] if jobs else []
        while parts:
            part = parts.pop()
            try:
                results = self._run(key, [job.item for job in part])
                if len(results) != len(part):
                    raise InferenceError(f"{len(results)} results for {len(part)} items")
            except BaseException as e:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                if isinstance(e, OutOfMemory | MemoryError):
                    self._cap = max(1, min(self._cap, len(part) // 2))
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                results = [e if isinstance(e, Exception) else InferenceError(f"the call ended in {type(e).__name__}")]
            outcomes = list(zip(part, results, strict=True))
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._resolve, outcomes, time.perf_counter())

    def _resolve(self, outcomes: list[tuple[_Job[I, R], R | Exception]], ended: float) -> None:
        """On the loop."""
        for job, result in outcomes:
            if job.future.done():  # cancelled meanwhile
                continue
            if isinstance(result, Exception):
                # a future cannot hold StopIteration, which ends generators
                error = InferenceError(repr(result)) if isinstance(result, StopIteration) else result
                job.future.set_exception(error)
            else:
                job.future.set_result(Done(result, job.started - job.submitted, ended - job.started))
