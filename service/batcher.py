"""Batches without a timer: a lane that falls idle takes what waits, up to its cap, and so a batch grows exactly while
there is nobody to run it. Lanes that are idle together share what waits.

A lane is a thread that makes one call at a time: as many as the runtime has. Work of one key may share a call. Keys are
of kinds, which take turns (`service.turns`), so that a flood of one kind does not starve another; within a kind the
most urgent deadline goes first. A future always resolves: with a result, the error of its own item, DeadlineExceeded if
its time was over before a lane took it, or Unavailable when the batcher closes. Cancelled work is dropped when its
batch is sealed, before it costs a thing.

Futures belong to the event loop. Lanes only ask them whether they were cancelled, and hand a batch's results over in
one step, so that the loop wakes once for all of them; and the loop wakes a lane once for all that was submitted in one
of its turns.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bundle.errors import DeadlineExceeded, InferenceError, OutOfMemory, Unavailable
from service.waiting import Job, Waiting

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
I = TypeVar("I")  # noqa: E741 - item
R = TypeVar("R")

_FULL_ENOUGH = 0.75  # of a bucket; see docs/decisions/0066-buckets.md


@dataclass(frozen=True)
class Done(Generic[R]):
    """`queue_s`: from submission to the start of the first call it was in; `infer_s`: from there to the result."""

    value: R
    queue_s: float
    infer_s: float


@dataclass
class _Batch(Generic[K, I]):
    key: K
    jobs: list[Job[K, I]]
    charge: float  # see Turns.begin
    call_began: float = field(default_factory=time.monotonic)


class Batcher(Generic[K, I, R]):
    """`run(key, items)` returns a result per item, in order, an exception in the place of one that failed by itself; it
    is called from `lanes` threads at once.

    When it raises, the batch is cut in halves that run again, until the items to blame stand alone: they get the error.
    One of 32 costs ten further calls. On OutOfMemory the cap of the kind is halved as well, for good: the device will
    not grow.

    `kind_of(key)`: whom to share the lanes with fairly; all are of one kind where it is not given. `buckets`: sizes
    that the device likes, ascending; empty is any. `window`: how many results of a kind may be ahead of whoever takes
    them; an item counts from the start of its call until `give_back`, or its error. `name`: of the threads.

    Make it inside the event loop that submits; its methods are for that loop's thread.
    """

    def __init__(
        self,
        run: Callable[[K, list[I]], Sequence[R | Exception]],
        *,
        lanes: int,
        max_batch: int,
        buckets: Sequence[int] = (),
        kind_of: Callable[[K], Hashable] = lambda _: None,
        window: int | None = None,
        name: str = "lane",
    ) -> None:
        if lanes < 1 or max_batch < 1:
            raise ValueError(f"lanes and max_batch must be at least 1, got {lanes} and {max_batch}")
        self._loop = asyncio.get_running_loop()
        self._run = run
        self._kind_of = kind_of
        self._max_batch = max_batch
        self._caps: dict[Hashable, int] = {}  # of the kinds that ran out of memory
        self._buckets = tuple(buckets)
        self._waiting: Waiting[K, I] = Waiting(kind_of)
        self._window = window
        self._ahead: Counter[Hashable] = Counter()
        self._changed = threading.Condition()
        self._wake_due = False
        self._closed = False
        self._batches: dict[int, _Batch[K, I]] = {}  # lane -> what it runs
        self._order = itertools.count()
        self._ended = asyncio.Event()
        self._num_running = lanes
        self._name = name
        self._lanes = [
            threading.Thread(target=self._lane, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(lanes)
        ]
        for lane in self._lanes:
            lane.start()

    @property
    def cap(self) -> int:
        """Most items per call, as of now, of the kind that may have fewest."""
        return min(self._caps.values(), default=self._max_batch)

    @property
    def alive(self) -> bool:
        """Whether every lane's thread runs."""
        return self._num_running == len(self._lanes)

    @property
    def ended(self) -> bool:
        """Whether no lane's thread runs any more."""
        return self._ended.is_set()

    @property
    def longest_call_s(self) -> float:
        """How long the oldest of the calls now running has taken; 0 while none runs."""
        now = time.monotonic()
        with self._changed:
            return max((now - batch.call_began for batch in self._batches.values()), default=0.0)

    def num_waiting(self, kind: Hashable) -> int:
        """How many items of the kind no lane has taken yet, some of which may have been cancelled. For any thread."""
        with self._changed:
            return self._waiting.num_of(kind)

    def submit(self, key: K, item: I, *, deadline: float = float("inf")) -> asyncio.Future[Done[R]]:
        """Enqueue. `deadline`, in time.monotonic's seconds: the order within a kind, and when it is too late to begin.

        Unavailable if the batcher is closed, or no lane is left.
        """
        future: asyncio.Future[Done[R]] = self._loop.create_future()
        job = Job(deadline, next(self._order), key, item, future, time.perf_counter())
        with self._changed:
            if self._closed:
                raise Unavailable("the service is stopping")
            self._waiting.push(job)
        if not self._wake_due:  # after this turn of the loop, so that all it submits can share a batch
            self._wake_due = True
            self._loop.call_soon(self._wake)
        return future

    def give_back(self, key: K) -> None:
        """A result of `key` is no longer ahead."""
        with self._changed:
            self._ahead[self._kind_of(key)] -= 1
            self._changed.notify()

    def widen(self, window: int) -> None:
        """Change the window."""
        if window != self._window:
            with self._changed:
                self._window = window
                self._changed.notify_all()

    async def close(self, *, patience_s: float = float("inf")) -> None:
        """Fail what waits with Unavailable, finish the calls that run, end the threads. Idempotent.

        A call that has run longer than `patience_s` is given up: its items get Unavailable too, and its thread, which
        nobody can end, is left behind: `ended` stays false.
        """
        self._fail_pending()
        while not self._ended.is_set():
            left_s = patience_s - self.longest_call_s
            if left_s <= 0:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), None if left_s == float("inf") else left_s)
        if self._ended.is_set():
            for lane in self._lanes:
                lane.join()
            return
        with self._changed:
            hung = list(self._batches.values())
        log.error("%s: a call that has not returned for %.1f s is given up", self._name, self.longest_call_s)
        for batch in hung:
            self._resolve([(job, Unavailable("the service is stopping")) for job in batch.jobs], 0.0)

    def _wake(self) -> None:
        """On the loop. One lane is enough: it wakes the next one if it leaves something."""
        self._wake_due = False
        with self._changed:
            self._changed.notify()

    def _fail_pending(self) -> None:
        """On the loop: from now on there is nothing to wait for."""
        with self._changed:
            self._closed = True
            waiting = self._waiting.clear()
            self._changed.notify_all()
        self._resolve([(job, Unavailable("the service is stopping")) for job in waiting], 0.0)

    def _lane(self, number: int) -> None:
        try:
            while (batch := self._next_batch(number)) is not None:
                self._execute(batch)
                self._finish(number, batch)
                del batch  # while this lane waits for the next, nobody should wait for its memory
        finally:
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._lane_ended, number)

    def _lane_ended(self, number: int) -> None:
        """On the loop. If it was not to end, what it worked on is lost, and with the last lane all that waits."""
        with self._changed:
            batch = self._batches.pop(number, None)
        if batch is not None:
            self._resolve([(job, InferenceError("the thread that worked on this has died")) for job in batch.jobs], 0.0)
        self._num_running -= 1
        if self._num_running == 0:
            self._ended.set()
            self._fail_pending()

    def _next_batch(self, lane: int) -> _Batch[K, I] | None:
        """Wait for work and seal a batch of it; None once the batcher is closed."""
        with self._changed:
            while True:
                while not (kinds := self._open_kinds()) and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return None
                batch = self._seal(self._waiting.turns.next(kinds))
                if batch is None:
                    continue
                self._batches[lane] = batch
                if self._waiting:
                    self._changed.notify()
                return batch

    def _open_kinds(self) -> Collection[Hashable]:
        """Those that wait for a lane and not for their window."""
        if self._window is None:
            return self._waiting.kinds
        return [kind for kind in self._waiting.kinds if self._ahead[kind] < self._window]

    def _finish(self, lane: int, batch: _Batch[K, I]) -> None:
        seconds = time.perf_counter() - batch.jobs[0].started
        with self._changed:
            del self._batches[lane]
            self._waiting.turns.end(self._kind_of(batch.key), batch.charge, seconds)

    def _seal(self, kind: Hashable) -> _Batch[K, I] | None:
        """The most urgent key's most urgent jobs: this lane's share, up to the cap.

        Leaves out, for good, what was cancelled and what is too late; None if nothing else was there. The caller holds
        the lock.
        """
        key, num_waiting = self._waiting.most_urgent(kind)
        idle = len(self._lanes) - len(self._batches)
        others = self._waiting.num_keys - 1  # keys that keep a lane busy each
        size = self._size(kind, -(-num_waiting // max(1, idle - others)))
        jobs, late = self._waiting.pop(kind, key, size, time.monotonic())
        if self._window is not None:
            self._ahead[kind] += len(jobs)
        if late:
            self._hand_over([(job, DeadlineExceeded("not begun in time")) for job in late])
        return _Batch(key, jobs, self._waiting.turns.begin(kind)) if jobs else None

    def _size(self, kind: Hashable, waiting: int) -> int:
        """How many of `waiting` items to take: a bucket full, or nearly full, and the rest with the next call."""
        size = min(waiting, self._caps.get(kind, self._max_batch))
        if self._window is not None:
            size = min(size, self._window - self._ahead[kind])
        below = max((bucket for bucket in self._buckets if bucket <= size), default=size)
        above = min((bucket for bucket in self._buckets if bucket >= size), default=float("inf"))
        return size if size >= _FULL_ENOUGH * above else below

    def _execute(self, batch: _Batch[K, I]) -> None:
        started = time.perf_counter()
        for job in batch.jobs:
            job.started = started
        parts = [batch.jobs]
        while parts:
            part = parts.pop()
            if part is not batch.jobs:
                part = self._still_wanted(part)
            if not part:
                continue
            batch.call_began = time.monotonic()
            try:
                results: list[R | BaseException] = list(self._run(batch.key, [job.item for job in part]))
                if len(results) != len(part):
                    raise InferenceError(f"{len(results)} results for {len(part)} items")
            except BaseException as e:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                if len(part) > 1:
                    if isinstance(e, OutOfMemory | MemoryError):
                        self._shrink(self._kind_of(batch.key), len(part) // 2)
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                results = [e]
            self._hand_over(list(zip(part, results, strict=True)))

    def _still_wanted(self, part: list[Job[K, I]]) -> list[Job[K, I]]:
        """What to run again of a call that failed: nothing once the batcher is closed, and nothing that was cancelled
        meanwhile.
        """
        wanted = [job for job in part if not (self._closed or job.future.cancelled())]
        if len(wanted) < len(part):
            self._hand_over([(job, Unavailable("the service is stopping")) for job in part if job not in wanted])
        return wanted

    def _shrink(self, kind: Hashable, cap: int) -> None:
        with self._changed:
            self._caps[kind] = min(self._caps.get(kind, self._max_batch), cap)

    def _hand_over(self, outcomes: list[tuple[Job[K, I], R | BaseException]]) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._resolve, outcomes, time.perf_counter())

    def _resolve(self, outcomes: Sequence[tuple[Job[K, I], R | BaseException]], ended: float) -> None:
        """On the loop."""
        seen: set[int] = set()
        for job, result in outcomes:
            future = job.future
            if not (future.done() or isinstance(result, BaseException)):
                future.set_result(Done(result, job.started - job.submitted, ended - job.started))
                continue
            if self._window is not None and job.started:
                self.give_back(job.key)
            if isinstance(result, BaseException) and not future.done():  # else it was cancelled meanwhile
                future.set_exception(_own_error(result, shared=id(result) in seen))
                seen.add(id(result))


def _own_error(error: BaseException, *, shared: bool) -> Exception:
    """What a future may hold: StopIteration ends generators, and what is no Exception ends tasks.

    `shared`: another future holds it already. Two who raise one object write into each other's tracebacks.
    """
    if not isinstance(error, Exception):
        return InferenceError(f"the call ended in {type(error).__name__}")
    if isinstance(error, StopIteration):
        return InferenceError(repr(error))
    if not shared:
        return error
    try:
        twin: Any = copy.copy(error)
    except Exception:  # noqa: BLE001 - its class cannot be made from its message alone
        return InferenceError(str(error))
    return twin if isinstance(twin, type(error)) else InferenceError(str(error))
