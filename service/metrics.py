"""What Prometheus may ask; docs/metrics.md explains every name. One registry per app: no shared counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms are fed through the methods; gauges ask when they are scraped."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        requests = Counter(
            "maeve_requests", "Requests by route and status; 499 is a client that left.", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        request_seconds = Histogram(
            "maeve_request_seconds", "From the first byte of a request to the last of its answer.", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        images = Counter(
            "maeve_images", "Images by operation and where the result came from: memory, redis, flight, computed.",
            ["operation", "source"], registry=registry,
        )  # fmt: skip
        stage_seconds = Histogram(
            "maeve_stage_seconds", "Time an image spent in a stage: cache, decode, queue, infer.", ["stage"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        batch_images = Histogram(
            "maeve_batch_images", "Images per model call.", ["operation"], buckets=_BATCHES, registry=registry
        )
        self.remote_errors = Counter("maeve_redis_errors", "Calls to Redis without an answer.", registry=registry)
        restarts = Counter(
            "maeve_restarts", "Processes that had died and were started again: device, worker.", ["process"],
            registry=registry,
        )  # fmt: skip
        self._restarts = restarts.labels
        # finding a metric by its labels takes longer than counting; there are a few dozen of them
        self._requests, self._images = lru_cache(requests.labels), lru_cache(images.labels)
        self._request_seconds, self._stage_seconds = lru_cache(request_seconds.labels), lru_cache(stage_seconds.labels)
        self._batch_images = lru_cache(batch_images.labels)
        self._watched: dict[str, Gauge] = {}
        self._info = Gauge(
            "maeve_bundle", "Always 1; the labels say what is served.",
            ["name", "digest", "runtime", "device", "precision"], registry=registry,
        )  # fmt: skip

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests(route, str(status)).inc()
        self._request_seconds(route).observe(seconds)

    def image(self, operation: str, source: str) -> None:
        self._images(operation, source).inc()

    def stage(self, name: str, seconds: float) -> None:
        self._stage_seconds(name).observe(seconds)

    def batch(self, operation: str, num_images: int) -> None:
        self._batch_images(operation).observe(num_images)

    def restarted(self, process: str) -> None:
        """A process of this kind had died and was started again."""
        self._restarts(process).inc()

    def describe(self, name: str, digest: str, devices: Iterable[tuple[str, str, str]]) -> None:
        """Say what is served from now on. `devices`: (runtime, device, precision) of each."""
        self._info.clear()
        for device in devices:
            self._info.labels(name, digest, *device).set(1)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that calls `read` when it is scraped, the newest one that was given under this name."""
        if name not in self._watched:
            self._watched[name] = Gauge(name, text, registry=self.registry)
        self._watched[name].set_function(read)

    def render(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        return generate_latest(self.registry)
