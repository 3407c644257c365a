"""Servers and the bare loop in turns, so that what slows the machine down slows all of them down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.load.client import answer, open_loop
from benchmarks.load.limit import BareLoop
from benchmarks.load.outcome import Outcome
from benchmarks.load.requests import Target
from benchmarks.load.servers import Server, ServerFailed, running
from benchmarks.load.wrk import load

MIN_COSINE = 0.98  # resizing differs between libraries, the network does not
_WAVES = 3  # answers to a client, at the limit's rate: in shorter loops the slow requests are cut off at the end
_OPEN_SHARE = 0.7  # of a server's own most


@dataclass
class Contestant:
    """`levels`: numbers of clients. `closed`: the outcomes of the rounds for each of them; `opened`: those of the open
    loop. `cosine`: the least of its vectors to the bare loop's.
    """

    server: Server
    says: str
    levels: Sequence[int]
    cosine: float = 0.0
    closed: dict[int, list[Outcome]] = field(default_factory=dict)
    opened: list[Outcome] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.server.label

    def rate(self, clients: int) -> float:
        """Right answers per second, the median over the rounds."""
        return statistics.median(outcome.rate for outcome in self.closed[clients])

    def most(self) -> float:
        return max(self.rate(clients) for clients in self.closed)

    def errors(self) -> int:
        return sum(o.errors for outcomes in (*self.closed.values(), self.opened) for o in outcomes)


@dataclass
class Limit:
    """A bare loop, and its images per second in each round."""

    label: str
    loop: BareLoop
    rates: list[float] = field(default_factory=list)


def enter(contestant: Contestant, bare: BareLoop, photos: Sequence[bytes]) -> None:
    """Check its vectors against the bare loop's, learn how long its answers are, and hold it still.

    ServerFailed if they are not of the same network.
    """
    target = contestant.server.target
    bodies = [answer(target, number) or b"" for number in range(min(4, len(photos)))]
    try:
        cosines = [_cosine(vector(body), bare.embed(photo)) for body, photo in zip(bodies, photos, strict=False)]
    except ValueError as e:
        raise ServerFailed(f"{contestant.label} answers with something else than a vector: {e}") from e
    contestant.cosine = min(cosines)
    if contestant.cosine < MIN_COSINE:
        raise ServerFailed(f"{contestant.label} answers with other vectors: cosine {contestant.cosine:.3f}")
    lengths = [len(body) for body in bodies]  # of JSON, in which numbers have more digits or fewer
    contestant.server.expect(int(min(lengths) * 0.8), int(max(lengths) * 1.25))
    contestant.server.hold()


def vector(body: bytes) -> NDArray[np.float64]:
    """The first list of numbers in a JSON document, which every server's answer has exactly one of: f64 [D].

    ValueError if there is none.
    """
    found = _first_numbers(orjson.loads(body))
    if found is None:
        raise ValueError(f"no list of numbers in {body[:60]!r}")
    return np.array(found)


def _first_numbers(value: object) -> list[float] | None:
    if isinstance(value, list) and len(value) > 2 and all(isinstance(each, int | float) for each in value):
        return value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for child in children if (found := _first_numbers(child)) is not None), None)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float32]) -> float:
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} numbers in place of {len(b)}")
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def closed_rounds(
    contestants: Sequence[Contestant], limits: Sequence[Limit], rounds: int, seconds: float, until: float
) -> None:
    """Rounds of closed loops, in an order that alternates; none but the first begins that would not end by `until`.

    A loop lasts `seconds`, and longer where its clients would not be answered a few times each.
    """

    def one(contestant: Contestant) -> None:
        with running(contestant.server):
            for clients in contestant.levels:
                lasting = max(seconds, _WAVES * clients / limits[0].rates[0])
                outcome = load(contestant.server.target, clients, lasting)
                contestant.closed.setdefault(clients, []).append(outcome)
                contestant.server.settle()

    def bare(limit: Limit) -> None:
        limit.rates.append(limit.loop.rate(seconds))

    turns: list[Callable[[], None]] = [lambda limit=limit: bare(limit) for limit in limits]  # type: ignore[misc]
    turns += [lambda each=each: one(each) for each in contestants]  # type: ignore[misc]
    for limit in limits:
        limit.loop.rate(min(1.0, seconds))  # the first calls of a session are slow
    _in_rounds(turns, rounds, until, "closed loops")


def open_rounds(contestants: Sequence[Contestant], rounds: int, seconds: float, until: float) -> None:
    """Rounds of open loops at 70 % of what each was seen to do at most."""

    def one(contestant: Contestant) -> None:
        if not (most := contestant.most()) > 0:
            return
        with running(contestant.server):
            seed = len(contestant.opened)
            contestant.opened.append(open_loop(contestant.server.target, _OPEN_SHARE * most, seconds, seed=seed))

    _in_rounds([lambda each=each: one(each) for each in contestants], rounds, until, "open loops")  # type: ignore[misc]


def _in_rounds(turns: Sequence[Callable[[], None]], rounds: int, until: float, what: str) -> None:
    longest = 0.0
    for number in range(rounds):
        started = time.monotonic()
        if number and started + longest > until:
            print(f"{what}: no time for round {number + 1} of {rounds}", flush=True)
            return
        for turn in turns[:: -1 if number % 2 else 1]:
            turn()
        longest = max(longest, time.monotonic() - started)
        print(f"{what}: round {number + 1} of {rounds}", flush=True)


def hit_ratio(cached: Server, noop: Server, clients: int, rounds: int, seconds: float) -> tuple[float, list[float]]:
    """The server's rate of cache hits, median in requests per second, and its ratios to the no-op route's."""
    rates, ratios = [], []
    _warm(cached.target)
    for _ in range(rounds):
        found = []
        for server in (noop, cached):
            with running(server):
                found.append(load(server.target, clients, seconds, repeated=True).rate)
        rates.append(found[1])
        ratios.append(found[1] / found[0])
    return statistics.median(rates), ratios


def _warm(target: Target) -> None:
    load(target, 4, 2.0, repeated=True)
