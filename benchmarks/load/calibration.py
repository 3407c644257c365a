"""What the model of the queue is told: seconds of a core that the steps of a request take, measured one by one.

Lanes are measured in this process, with the very decoder, sessions and graph that the service uses, and the service
stands still meanwhile. What its event loop and the client take is asked of Linux, thread by thread, at a few requests
per second. All are times for which a thread had a core, so that what other programs take of the machine is no part of
them.
"""

from __future__ import annotations

import os
import random
import statistics
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.client import closed_loop, open_loop
from benchmarks.load.limit import our_decode
from benchmarks.load.outcome import Outcome
from benchmarks.load.servers import Server, running
from benchmarks.queueing import Machine
from bundle.manifest import Precision
from bundle.masking import all_ids
from bundle.store import Bundle
from runtime.onnx import OnnxRuntime, load_session

_STAT = Path("/proc/stat")
_RARE = 15.0  # requests per second, most of which never meet
_STEADY = 4  # clients for each lane
_PARTS = 5  # of the time: decoding, calls, cores together, and two loads of the service


@dataclass(frozen=True)
class Cost:
    """Of a request, in seconds of a core: in the service's event loop, in its other threads, in the client."""

    loop_s: float
    lane_s: float
    client_s: float


@dataclass(frozen=True)
class Calibration:
    """In seconds of one core that has nothing else to do. `decode_s` [P]: of each photo; `call_s`: of calls of 1, 2,
    ... images; `speeds`: what 1, 2, ... busy cores get done together, in cores that work alone; `rare`, `steady`: what
    requests cost that never meet, and those that come one behind the other.
    """

    decode_s: NDArray[np.float64]
    call_s: tuple[NDArray[np.float64], ...]
    speeds: tuple[float, ...]
    rare: Cost
    steady: Cost

    def machine(self, places: int) -> Machine:
        """The service with a lane for each core, whose clients share its cores."""
        decode_s, calls = self.decode_s.tolist(), [each.tolist() for each in self.call_s]

        def call_s(num_images: int, rng: random.Random) -> float:
            seconds: float = rng.choice(calls[num_images - 1])
            return seconds + self.handover_s

        return Machine(
            lanes=len(self.speeds), cores=len(self.speeds), speeds=self.speeds, max_batch=len(calls), places=places,
            decode_s=lambda rng: rng.choice(decode_s), call_s=call_s,
            loop_s=self.steady.loop_s, loop_wake_s=max(0.0, self.rare.loop_s - self.steady.loop_s) / 2,
            client_s=self.steady.client_s, client_wake_s=max(0.0, self.rare.client_s - self.steady.client_s),
        )  # fmt: skip

    @property
    def handover_s(self) -> float:
        """What a lane of the service does for a call beside decoding and running."""
        return max(0.0, self.rare.lane_s - float(self.decode_s.mean()) - float(self.call_s[0].mean()))

    @property
    def decode_ms(self) -> float:
        return float(self.decode_s.mean()) * 1000

    @property
    def infer_ms(self) -> float:
        """Of an image, in a call that is full."""
        return float(self.call_s[-1].mean()) / len(self.call_s) * 1000


def merged(a: Calibration, b: Calibration) -> Calibration:
    """Both samples, and the means of what is one number."""
    return Calibration(
        np.concatenate([a.decode_s, b.decode_s]),
        tuple(np.concatenate(pair) for pair in zip(a.call_s, b.call_s, strict=True)),
        tuple(statistics.mean(pair) for pair in zip(a.speeds, b.speeds, strict=True)),
        _mean(a.rare, b.rare),
        _mean(a.steady, b.steady),
    )


def _mean(a: Cost, b: Cost) -> Cost:
    return Cost((a.loop_s + b.loop_s) / 2, (a.lane_s + b.lane_s) / 2, (a.client_s + b.client_s) / 2)


class Lane:
    """What a lane does: decode, and run the encoder on one thread."""

    def __init__(self, bundle: Bundle, photos: Sequence[bytes], precision: Precision) -> None:
        self.decode, self.photos = our_decode(bundle), photos
        self._session = load_session(bundle.graph_file("encoder", precision))
        self._output, self._num_patches = bundle.manifest.pooling, bundle.manifest.model.num_patches

    def call(self, pixels: NDArray[np.uint8]) -> None:
        """`pixels`: u8 [N, H, W, C]."""
        ids = np.ascontiguousarray(all_ids(len(pixels), self._num_patches))
        self._session.run([self._output], {"images": pixels, "ids_keep": ids})

    def work(self, number: int, num_images: int) -> None:
        """Decode and run some photos, from the one of this number on."""
        files = [self.photos[(number + i) % len(self.photos)] for i in range(num_images)]
        self.call(np.stack([self.decode(file) for file in files]))


class Bench:
    """Measures a bundle's lanes, as many as there are cores, and a service that runs them.

    `seconds` are shared out over what is measured.
    """

    def __init__(self, bundle: Bundle, photos: Sequence[bytes], precision: Precision, cores: int) -> None:
        self._max_batch = OnnxRuntime.max_batch
        self._lanes = [Lane(bundle, photos, precision) for _ in range(cores)]
        self._photos = photos

    def calibrate(self, server: Server, seconds: float) -> Calibration:
        """`server` stands still, and does so again afterwards."""
        part_s = seconds / _PARTS
        decode_s = self._decodings(part_s)
        call_s = tuple(self._calls(size, part_s / self._max_batch) for size in range(1, self._max_batch + 1))
        speeds = self._speeds(part_s)
        with running(server):
            rare = _cost(server, lambda: open_loop(server.target, _RARE, part_s))
            steady = _cost(server, lambda: closed_loop(server.target, _STEADY * len(self._lanes), part_s))
        return Calibration(decode_s, call_s, speeds, rare, steady)

    def _decodings(self, seconds: float) -> NDArray[np.float64]:
        """Every photo at least once, and the median of each."""
        lane, times = self._lanes[0], [list[float]() for _ in self._photos]
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or not times[-1]:
            for photo, taken in zip(self._photos, times, strict=True):
                start = time.thread_time()
                lane.decode(photo)
                taken.append(time.thread_time() - start)
        return np.array([statistics.median(taken) for taken in times])

    def _calls(self, num_images: int, seconds: float) -> NDArray[np.float64]:
        lane, taken = self._lanes[0], list[float]()
        pixels = np.stack([lane.decode(self._photos[i % len(self._photos)]) for i in range(num_images)])
        lane.call(pixels)  # the first call of a size allocates
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or not taken:
            start = time.thread_time()
            lane.call(pixels)
            taken.append(time.thread_time() - start)
        return np.array(taken)

    def _speeds(self, seconds: float) -> tuple[float, ...]:
        """Measured at 1, 2, 4, ... and all lanes, between these in proportion."""
        cores = len(self._lanes)
        counts = sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores})
        costs = [self._cost_of_image(count, seconds / len(counts)) for count in counts]
        speeds = [count * costs[0] / cost for count, cost in zip(counts, costs, strict=True)]
        return tuple(float(each) for each in np.interp(range(1, cores + 1), counts, speeds))

    def _cost_of_image(self, num_lanes: int, seconds: float) -> float:
        """Seconds of a core for an image while this many lanes are busy."""
        until = time.perf_counter() + seconds

        def loop(lane: Lane) -> tuple[int, float]:
            count, start = 0, time.thread_time()
            while time.perf_counter() < until or not count:
                lane.work(count, self._max_batch)
                count += self._max_batch
            return count, time.thread_time() - start

        with ThreadPoolExecutor(num_lanes) as threads:
            done = list(threads.map(loop, self._lanes[:num_lanes]))
        return sum(taken for _, taken in done) / sum(count for count, _ in done)


def _cost(server: Server, load: Callable[[], Outcome]) -> Cost:
    """Of the requests of this load."""
    done = told(server.port)["maeve_images_total"]
    before = threads_cpu_s(server.pid)
    found = load()
    server.settle()  # nothing is left to be done of what was sent
    after = threads_cpu_s(server.pid)
    requests = told(server.port)["maeve_images_total"] - done
    spent = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
    loop_s = spent.pop(server.pid)
    return Cost(loop_s / requests, sum(spent.values()) / requests, found.client_cpu_s / requests)


def told(port: int) -> dict[str, float]:
    """The metrics of a service, each the sum over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def threads_cpu_s(pid: int) -> dict[int, float]:
    """Seconds that each thread of a process has had a core. Of the process's own number is its main thread, in which
    the service's event loop runs. Linux alone tells (Documentation/scheduler/sched-stats.rst).
    """
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except OSError:  # it has ended meanwhile
            continue
    return found


def others_cpu_s(server: Server) -> float:
    """Seconds that programs other than this one and the server have had a core, since the machine started; only the
    difference of two says anything. Of /proc/stat the columns user, nice, system, irq, softirq and steal count.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = _STAT.read_text().split()[1:9]
    ticks = sum(map(int, (user, nice, system, irq, softirq, steal)))
    ours = sum(threads_cpu_s(server.pid).values()) + time.process_time()
    return ticks / os.sysconf("SC_CLK_TCK") - ours
