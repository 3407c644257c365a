"""benchmarks.queueing against what is known of queues: formulas that can be found in any book on them.

Kleinrock, Queueing Systems, volume 1 (1975) and 2 (1976). All requests have one image, and times are in seconds.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from benchmarks.load.client import arrivals
from benchmarks.queueing import Machine, Prediction, closed_loop, open_loop

NUM = 50_000


def exponential(mean_s: float) -> Any:
    return lambda rng: rng.expovariate(1 / mean_s)


def nothing(_: random.Random) -> float:
    return 0.0


def always(seconds: float) -> Any:
    return lambda _n, _rng: seconds


def machine(**fields: Any) -> Machine:
    """Lanes that decode and take nothing for the call, where the fields do not say otherwise."""
    return Machine(**{"lanes": 1, "decode_s": exponential(1.0), "call_s": always(0.0)} | fields)


def poisson(rate: float, num: int = NUM, seed: int = 1) -> list[float]:
    return list(arrivals(rate, num / rate, seed))


def loaded(rate: float, **fields: Any) -> Prediction:
    """Requests at random; the first tenth, in which the queue fills, is left out."""
    found = open_loop(machine(**fields), poisson(rate), NUM / rate)
    return Prediction(found.latencies_s[NUM // 10 :], found.rejected, found.seconds, found.busy)


def erlang_c(lanes: int, load: float) -> float:
    """The share of arrivals that wait, where `load` lanes are busy on average (volume 1, 3.5)."""
    terms = [load**k / math.factorial(k) for k in range(lanes)]
    last = load**lanes / math.factorial(lanes) * lanes / (lanes - load)
    return last / (sum(terms) + last)


def test_m_m_1() -> None:
    """The time in the system is exponential with mean 1 / (mu - lambda) (volume 1, 3.2 and 5.2)."""
    found = loaded(0.6)
    assert found.latencies_s.mean() == pytest.approx(1 / 0.4, rel=0.03)
    assert found.within_ms(50) / 1000 == pytest.approx(math.log(2) / 0.4, rel=0.03)
    assert found.within_ms(99) / 1000 == pytest.approx(math.log(100) / 0.4, rel=0.05)
    assert found.busy == pytest.approx(0.6, rel=0.02)


@pytest.mark.parametrize(("lanes", "rate"), [(2, 1.4), (4, 3.2)])
def test_m_m_c(lanes: int, rate: float) -> None:
    found = loaded(rate, lanes=lanes)
    wait = erlang_c(lanes, rate) / (lanes - rate)
    assert found.latencies_s.mean() == pytest.approx(1 + wait, rel=0.03)
    assert (found.latencies_s.mean() - 1) == pytest.approx(wait, rel=0.08)


def test_m_d_1() -> None:
    """Pollaczek and Khinchine: half the wait of M/M/1 (volume 1, 5.6)."""
    found = loaded(0.7, decode_s=nothing, call_s=always(1.0))
    assert found.latencies_s.mean() == pytest.approx(1 + 0.7 / (2 * 0.3), rel=0.03)


@pytest.mark.parametrize("rate", [0.7, 1.5])
def test_m_m_1_with_k_places(rate: float) -> None:
    """The share that finds all places taken (volume 1, 3.6)."""
    moments = poisson(rate)
    found = open_loop(machine(places=5), moments, NUM / rate)
    assert len(found.latencies_s) + found.rejected == len(moments)
    assert found.rejected_share == pytest.approx((1 - rate) * rate**5 / (1 - rate**6), rel=0.05)


@pytest.mark.parametrize("decode_s", [exponential(1.0), lambda _: 1.0, lambda rng: rng.choice((0.4, 0.4, 2.2))])
def test_a_core_that_is_shared(decode_s: Any) -> None:
    """M/G/1 with processor sharing: 1 / (1 - load), whatever the times' distribution (volume 2, 4.4)."""
    found = loaded(0.6, lanes=10_000, cores=1, decode_s=decode_s)
    assert found.latencies_s.mean() == pytest.approx(1 / 0.4, rel=0.04)


def test_queues_one_behind_the_other() -> None:
    """Jackson: as if each were alone (volume 1, 4.8)."""
    found = loaded(
        0.5, decode_threads=1, decode_s=exponential(1.0), on_device=True, call_s=lambda _, rng: rng.expovariate(0.8)
    )
    assert found.latencies_s.mean() == pytest.approx(1 / 0.5 + 1 / 0.3, rel=0.03)


def test_clients_that_wait_for_each_other() -> None:
    """Little's law, and for times that never vary the very figures."""
    found = closed_loop(machine(lanes=2, decode_s=nothing, call_s=always(0.125)), 8, 100)
    assert found.rate == pytest.approx(16, rel=0.01)
    assert found.busy == pytest.approx(1, rel=0.01)
    np.testing.assert_allclose(found.latencies_s[8:], 8 / 16)
    found = closed_loop(machine(lanes=3), 7, 20_000)
    assert found.latencies_s.mean() * found.rate == pytest.approx(7, rel=0.01)
    assert found.rate == pytest.approx(3, rel=0.02)


def test_calls_fill_up_while_the_device_is_busy() -> None:
    """A call of n takes 1 + n/10: of 4 images in 1.4 s where more than enough wait."""
    fields = {"decode_s": nothing, "on_device": True, "decode_threads": 1, "max_batch": 4}
    busy = machine(**fields, call_s=lambda n, _: 1 + n / 10)
    assert closed_loop(busy, 12, 1400).rate == pytest.approx(4 / 1.4, rel=0.01)
    assert open_loop(busy, [0.0, 5.0], 10).latencies_s.tolist() == pytest.approx([1.1, 1.1])
    at_once = open_loop(busy, [0.0, 0.1, 0.2, 0.3], 10).latencies_s.tolist()
    assert at_once == pytest.approx([1.1, 2.3, 2.2, 2.1])  # one alone, then three together that end at 2.4


def test_an_idle_lane_takes_what_waits() -> None:
    sizes: list[int] = []

    def call_s(n: int, _: random.Random) -> float:
        sizes.append(n)
        return 1.0

    open_loop(machine(lanes=2, max_batch=4, decode_s=nothing, call_s=call_s), [0, 0, *[0.5] * 5], 10)
    assert sizes == [1, 1, 4, 1]


def test_cores_that_hinder_each_other() -> None:
    """Two together do one and a half times as much as one alone."""
    pair = machine(lanes=2, cores=2, speeds=(1.0, 1.5), decode_s=lambda _: 1.0)
    assert open_loop(pair, [0.0], 1).latencies_s.tolist() == [1.0]
    assert open_loop(pair, [0.0, 0.0], 1).latencies_s.tolist() == pytest.approx([4 / 3, 4 / 3])
    assert closed_loop(pair, 4, 1000).rate == pytest.approx(1.5, rel=0.01)


def test_the_event_loop_and_the_client_take_their_part_of_the_cores() -> None:
    """Of one core, 1 s for an image and 0.25 s each for loop and client: 2 / 3 of a request a second."""
    whole = machine(cores=1, lanes=4, decode_s=lambda _: 1.0, loop_s=0.25, client_s=0.25)
    assert open_loop(whole, [0.0], 1).latencies_s.tolist() == [1.5]
    assert closed_loop(whole, 8, 3000).rate == pytest.approx(1 / 1.5, rel=0.01)
    alone = machine(lanes=4, decode_s=lambda _: 0.001, loop_s=0.25)  # one thread, however many cores
    assert closed_loop(alone, 8, 1000).rate == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize(("window", "moments"), [(1, [11, 22, 33]), (2, [11, 21, 31])])
def test_decoding_goes_no_further_ahead_than_its_window(window: int, moments: list[float]) -> None:
    """An image takes a second to decode and the device ten: with a window of two the next is ready when it ends."""
    fields = {"decode_s": lambda _: 1.0, "decode_threads": 4, "on_device": True, "call_s": always(10.0)}
    found = open_loop(machine(**fields, window=window), [0.0] * 3, 60)
    assert found.latencies_s.tolist() == pytest.approx(moments)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"lanes": 0}, "lanes and max_batch must be at least 1, got 0 and 1"),
        ({"cores": 0}, "cores must be at least 1, got 0"),
        ({"cores": 2, "speeds": (1.0,)}, "what 1 to 2 cores do, got 1 figures"),
        ({"on_device": True}, "needs decode_threads"),
    ],
)
def test_what_is_no_machine_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        machine(**fields)
