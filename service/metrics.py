"""What Prometheus may ask; docs/metrics.md explains every name. One registry per app: no shared counts.

With PROMETHEUS_MULTIPROC_DIR in the environment, values live in files of that folder, and every process that uses it
tells of all of them (service/shared_metrics.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from typing import Literal, ParamSpec, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.shared_metrics import SHARED_FOLDER, shared_registry, use_shared_values

P = ParamSpec("P")
T = TypeVar("T")

# How the values of a gauge in several processes become one. Those of processes that are gone do not count.
Across = Literal["sum", "max", "min"]
_MODES: dict[Across, Literal["livesum", "livemax", "livemin"]] = {
    "sum": "livesum", "max": "livemax", "min": "livemin",
}  # fmt: skip

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms are fed through the methods; gauges ask when they are scraped, and in several processes
    when `refresh` is called.

    `process`: this process's name among several. At most one object in a process that shares its values with others.
    """

    def __init__(self, process: str = "main") -> None:
        self.registry = registry = CollectorRegistry()
        self.shared = SHARED_FOLDER in os.environ
        if self.shared:
            use_shared_values()
        else:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)
        requests = self._counter(
            "maeve_requests", "Requests by route and status; 499 is a client that left.", "route", "status"
        )
        request_seconds = self._histogram(
            "maeve_request_seconds", "From the first byte of a request to the last of its answer.", "route"
        )
        errors = self._counter("maeve_errors", "Requests refused or failed, by the type of the error.", "type")
        images = self._counter(
            "maeve_images", "Images by operation and where the result came from: memory, redis, flight, computed.",
            "operation", "source",
        )  # fmt: skip
        stage_seconds = self._histogram(
            "maeve_stage_seconds",
            "Time in a stage: read, search and encode of a request, cache, decode, queue and infer of an image.",
            "stage",
        )  # fmt: skip
        batch_images = self._histogram("maeve_batch_images", "Images per model call.", "operation", buckets=_BATCHES)
        busy_seconds = self._counter(
            "maeve_device_busy_seconds", "Time that the device's lanes spent in calls, of all lanes together.", "device"
        )
        self._search_seconds = self._histogram(
            "maeve_search_seconds", "Time to find the neighbours of an image in the index, without waiting for it."
        )
        lookups = self._counter(
            "maeve_cache_requests", "Look-ups by tier (memory, redis) and outcome: hit, miss, error, bypass.",
            "tier", "outcome",
        )  # fmt: skip
        redis_bytes = self._counter(
            "maeve_redis_bytes", "Bytes of results read from Redis and written to it.", "direction"
        )
        self.remote_errors = self._counter("maeve_redis_errors", "Calls to Redis without an answer.")
        restarts = self._counter("maeve_restarts", "Processes that were started again: device, worker.", "process")
        reloads = self._counter(
            "maeve_reloads", "Reloads of the bundle: switched, unchanged, or refused and the old one kept.", "outcome"
        )
        # finding a metric by its labels takes longer than counting; there are a few dozen of them
        self._requests, self._request_seconds = lru_cache(requests.labels), lru_cache(request_seconds.labels)
        self._errors, self._images = lru_cache(errors.labels), lru_cache(images.labels)
        self._stage_seconds, self._batch_images = lru_cache(stage_seconds.labels), lru_cache(batch_images.labels)
        self._busy_seconds = lru_cache(busy_seconds.labels)
        self._lookups, self._redis_bytes = lru_cache(lookups.labels), lru_cache(redis_bytes.labels)
        self._restarts, self._reloads = restarts.labels, reloads.labels
        # Known from the start: of a series that begins at 1, Prometheus does not see the increase
        for kind in ("device", "worker"):
            restarts.labels(kind)
        for outcome in ("switched", "unchanged", "refused"):
            reloads.labels(outcome)
        for direction in ("read", "written"):
            redis_bytes.labels(direction)
        self._watched: dict[str, Gauge] = {}
        self._reads: dict[tuple[str, ...], tuple[Gauge, Callable[[], float]]] = {}
        self._bundle = self._gauge(
            "maeve_bundle", "Always 1; the labels say what is served.", "max",
            "name", "digest", "runtime", "device", "precision",
        )  # fmt: skip
        self._lanes = self._gauge("maeve_device_lanes", "Calls that the device makes at once.", "max", "device")
        self._process = Gauge(
            "maeve_process", "Always 1; the processes that there are.", ["process"], registry=registry,
            multiprocess_mode="liveall",
        )  # fmt: skip
        self._process.labels(process).set(1)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests(route, str(status)).inc()
        self._request_seconds(route).observe(seconds)

    def error(self, kind: str) -> None:
        self._errors(kind).inc()

    def image(self, operation: str, source: str, num_images: int = 1) -> None:
        self._images(operation, source).inc(num_images)

    def cache(self, tier: str, outcome: str, num_images: int = 1) -> None:
        self._lookups(tier, outcome).inc(num_images)

    def redis_bytes(self, direction: str, num_bytes: int) -> None:
        self._redis_bytes(direction).inc(num_bytes)

    def stage(self, name: str, seconds: float) -> None:
        self._stage_seconds(name).observe(seconds)

    def searched(self, seconds: float) -> None:
        self._search_seconds.observe(seconds)

    def batch(self, operation: str, num_images: int) -> None:
        self._batch_images(operation).observe(num_images)

    def restarted(self, process: Literal["device", "worker"]) -> None:
        """A process of this kind had died and was started again."""
        self._restarts(process).inc()

    def reloaded(self, outcome: Literal["switched", "unchanged", "refused"]) -> None:
        self._reloads(outcome).inc()

    def counting_busy(self, device: str, call: Callable[P, T]) -> Callable[P, T]:
        """`call`, its time counted as the device's, whether or not it fails. For any thread."""
        busy = self._busy_seconds(device)

        @wraps(call)
        def counted(*args: P.args, **kwargs: P.kwargs) -> T:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                busy.inc(time.perf_counter() - start)

        return counted

    def describe(self, name: str, digest: str, devices: Iterable[tuple[str, str, str, int]]) -> None:
        """Say what is served from now on. `devices`: (runtime, device, precision, lanes) of each."""
        self._forget(self._bundle)
        self._forget(self._lanes)
        lanes: dict[str, int] = {}
        for runtime, device, precision, num_lanes in devices:
            self._bundle.labels(name, digest, runtime, device, precision).set(1)
            lanes[device] = lanes.get(device, 0) + num_lanes
        for device, num_lanes in lanes.items():
            self._lanes.labels(device).set(num_lanes)

    def watch(self, name: str, text: str, read: Callable[[], float], *, across: Across = "sum", **labels: str) -> None:
        """A gauge that calls `read` when it is scraped, the newest one that was given under this name and labels.

        `across`: of several processes that watch it, what is told.
        """
        if name not in self._watched:
            self._watched[name] = self._gauge(name, text, across, *labels)
        gauge = self._watched[name].labels(**labels) if labels else self._watched[name]
        if self.shared:
            self._reads[name, *labels.values()] = gauge, read
        else:
            gauge.set_function(read)

    def refresh(self) -> None:
        """Where values are shared, write what is watched, so that the other processes can tell it. Else nothing."""
        for gauge, read in self._reads.values():
            gauge.set(read())

    def render(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        if not self.shared:
            return generate_latest(self.registry)
        self.refresh()
        return generate_latest(shared_registry())

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, across: Across, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=_MODES[across])

    def _forget(self, gauge: Gauge) -> None:
        """Files cannot forget labels; there, 0 stands for what is gone."""
        if not self.shared:
            gauge.clear()
            return
        for family in gauge.collect():
            for sample in family.samples:
                gauge.labels(**sample.labels).set(0)
