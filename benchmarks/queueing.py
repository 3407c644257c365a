"""A small model of the service on one machine: who waits for what, event by event, in made-up time.

    client thread -> event loop -> a place in the queue, or 429 -> lanes that decode and run [CPU]
                                                                 | decode threads -> lanes that run batches [GPU]
                  <- event loop <---------------------------------

Every thread needs a core for what it does, and busy threads share the cores evenly, as an operating system's scheduler
gives them turns; a GPU's lanes need none. What the model leaves out is in docs/decisions/0092-a-model-of-the-queue.md.
Letters: n images in a call, k busy cores.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

RETRY_S = 0.01  # after which a client of a closed loop that was turned away comes again, as benchmarks.load's do

Draw = Callable[[random.Random], float]
DrawCall = Callable[[int, random.Random], float]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What serves, and what each step takes on a core that has nothing else to do.

    `cores`: that threads share; None: each has one of its own. `speeds`: what 1, 2, ... busy cores get done together,
    in cores that work alone, since they share caches, memory and arithmetic units; empty: k cores do k times as much.
    `lanes` calls run at once, of at most `max_batch` images; on the cores, or beside them (`on_device`).
    `decode_threads`: beside the lanes; 0: lanes decode. `window`: images that these have begun with and the lanes have
    not finished, at most. `places`: images that wait or are worked on, at most. `decode_s`: of an image; `call_s`: of a model call of n
    images; `loop_s`, `client_s`: of a request, on the one thread of the event loop and on that of the client.
    ValueError for numbers that make no machine.
    """

    lanes: int
    decode_s: Draw
    call_s: DrawCall
    cores: int | None = None
    speeds: tuple[float, ...] = ()
    max_batch: int = 1
    on_device: bool = False
    decode_threads: int = 0
    window: float = math.inf
    places: float = math.inf
    loop_s: float = 0.0
    client_s: float = 0.0

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.max_batch < 1:
            raise ValueError(f"lanes and max_batch must be at least 1, got {self.lanes} and {self.max_batch}")
        if self.cores is not None and self.cores < 1:
            raise ValueError(f"cores must be at least 1, got {self.cores}")
        if self.speeds and len(self.speeds) != self.cores:
            raise ValueError(f"speeds must say what 1 to {self.cores} cores do, got {len(self.speeds)} figures")
        if self.on_device and self.decode_threads < 1:
            raise ValueError("a device beside the cores needs decode_threads")


@dataclass(frozen=True)
class Prediction:
    """`latencies_s` [N] of what was answered in the order of the answers, `rejected` requests, `seconds` that count for
    rates, `busy`: the share of their time that lanes spent in calls.
    """

    latencies_s: np.ndarray
    rejected: int
    seconds: float
    busy: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds

    @property
    def rejected_share(self) -> float:
        return self.rejected / max(1, self.rejected + len(self.latencies_s))

    def within_ms(self, percent: float) -> float:
        """The time in which this share was answered; nan where nothing was."""
        return float(np.percentile(self.latencies_s, percent)) * 1000 if len(self.latencies_s) else math.nan


def open_loop(machine: Machine, moments: Sequence[float], seconds: float, *, seed: int = 0) -> Prediction:
    """Requests of one image that come at these moments, in seconds and in order, whatever became of those before. All
    are waited for; rates are of `seconds`.
    """
    simulation = _Simulation(machine, seed)
    for moment in moments:
        simulation.at(moment, lambda moment=moment: simulation.request(moment))  # type: ignore[misc]
    simulation.run(math.inf)
    return simulation.outcome(seconds)


def closed_loop(machine: Machine, clients: int, seconds: float, *, seed: int = 0) -> Prediction:
    """Clients that each send a request once the last is answered; answers within `seconds` count."""
    simulation = _Simulation(machine, seed)

    def client(delay_s: float = 0.0) -> None:
        begun = simulation.now + delay_s
        simulation.at(begun, lambda: simulation.request(begun, lambda answered: client(0.0 if answered else RETRY_S)))

    for _ in range(clients):
        client()
    simulation.run(seconds)
    return simulation.outcome(seconds)


class _Cores:
    """Cores whose busy threads share them evenly.

    All go at one pace, so a thread that begins with w seconds of work ends when the pace has added up to w more:
    `_done` is that sum, and the ends lie in a heap by it.
    """

    def __init__(self, cores: int | None, speeds: Sequence[float]) -> None:
        self._cores = math.inf if cores is None else cores
        self._speeds = speeds
        self._done = 0.0
        self._at = 0.0
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def start(self, now: float, work_s: float, then: Callable[[], None]) -> None:
        self.advance(now)
        heapq.heappush(self._ends, (self._done + work_s, next(self._order), then))

    def next_end(self) -> float:
        """When the next thread is done, if none begins before."""
        if not self._ends:
            return math.inf
        return self._at + max(0.0, self._ends[0][0] - self._done) / self._pace()

    def advance(self, now: float) -> None:
        if self._ends:
            self._done += (now - self._at) * self._pace()
        self._at = now

    def pop(self) -> Callable[[], None]:
        """What follows the thread that is done by now."""
        self._done = max(self._done, self._ends[0][0])  # rounding must not leave it a moment short
        return heapq.heappop(self._ends)[2]

    def _pace(self) -> float:
        busy = len(self._ends)
        cores = min(busy, self._cores)
        return (self._speeds[int(cores) - 1] if self._speeds else cores) / busy


@dataclass
class _Threads:
    """A pool of threads with one line in front of it. `window`: pieces of work that were begun and not given back, at
    most.
    """

    cores: _Cores
    idle: int
    window: float = math.inf
    waiting: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)

    def add(self, now: float, work_s: float, then: Callable[[], None]) -> None:
        self.waiting.append((work_s, then))
        self.go_on(now)

    def ended(self, now: float) -> None:
        """One of them is free again."""
        self.idle += 1
        self.go_on(now)

    def give_back(self, now: float, num: int) -> None:
        self.window += num
        self.go_on(now)

    def go_on(self, now: float) -> None:
        while self.idle and self.waiting and self.window:
            self.idle -= 1
            self.window -= 1
            self.cores.start(now, *self.waiting.popleft())


@dataclass
class _Image:
    """A request's one. `reply` is told whether it was answered."""

    begun: float
    reply: Callable[[bool], None]
    decode_s: float = 0.0  # that a lane has yet to spend on it


class _Simulation:
    def __init__(self, machine: Machine, seed: int) -> None:
        self.now = 0.0
        self._machine = machine
        self._random = random.Random(seed)
        self._cores = _Cores(machine.cores, machine.speeds)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._client = _Threads(self._cores, 1)
        self._loop = _Threads(self._cores, 1)
        self._decoders = _Threads(self._cores, machine.decode_threads, machine.window)
        self._waiting: deque[_Image] = deque()
        self._idle_lanes = machine.lanes
        self._pending = 0
        self._latencies: list[float] = []
        self._rejected = 0
        self._busy_s = 0.0

    def at(self, moment: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (moment, next(self._order), then))

    def run(self, until: float) -> None:
        """Until then, or until nothing is left to happen."""
        while True:
            timer = self._timers[0][0] if self._timers else math.inf
            end = self._cores.next_end()
            if min(timer, end) >= until:
                self.now = until if math.isfinite(until) else self.now
                return
            self.now = min(timer, end)
            self._cores.advance(self.now)
            (heapq.heappop(self._timers)[2] if timer <= end else self._cores.pop())()

    def outcome(self, seconds: float) -> Prediction:
        busy = self._busy_s / self._machine.lanes / max(seconds, self.now)
        return Prediction(np.array(self._latencies), self._rejected, seconds, busy)

    def request(self, begun: float, reply: Callable[[bool], None] = lambda _: None) -> None:
        image = _Image(begun, reply)
        self._work(self._client, self._machine.client_s, lambda: self._receive(image))

    def _receive(self, image: _Image) -> None:
        """Half of the loop's work lies before the queue: reading, hashing, looking into the cache."""
        self._work(self._loop, self._machine.loop_s / 2, lambda: self._admit(image))

    def _admit(self, image: _Image) -> None:
        if self._pending >= self._machine.places:
            self._rejected += 1
            image.reply(False)
            return
        self._pending += 1
        decode_s = self._machine.decode_s(self._random)
        if self._machine.decode_threads:
            self._work(self._decoders, decode_s, lambda: self._enqueue(image))
        else:
            image.decode_s = decode_s
            self._enqueue(image)

    def _work(self, threads: _Threads, work_s: float, then: Callable[[], None]) -> None:
        def ended() -> None:
            then()
            threads.ended(self.now)

        threads.add(self.now, work_s, ended)

    def _enqueue(self, image: _Image) -> None:
        self._waiting.append(image)
        self._dispatch()

    def _dispatch(self) -> None:
        """An idle lane takes what waits, up to its cap; nobody waits for a fuller call."""
        while self._idle_lanes and self._waiting:
            images = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._machine.max_batch))]
            self._idle_lanes -= 1
            work_s = sum(image.decode_s for image in images) + self._machine.call_s(len(images), self._random)
            begun = self.now
            then = lambda images=images, begun=begun: self._finish(images, begun)  # noqa: E731
            if self._machine.on_device:
                self.at(self.now + work_s, then)
            else:
                self._cores.start(self.now, work_s, then)

    def _finish(self, images: list[_Image], begun: float) -> None:
        self._busy_s += self.now - begun
        self._idle_lanes += 1
        self._pending -= len(images)
        for image in images:
            self._work(self._loop, self._machine.loop_s / 2, lambda image=image: self._answer(image))  # type: ignore[misc]
        self._decoders.give_back(self.now, len(images))
        self._dispatch()

    def _answer(self, image: _Image) -> None:
        self._latencies.append(self.now - image.begun)
        image.reply(True)
