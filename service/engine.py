"""The path of an image: hash, caches, decode pool, batcher, caches again.

The event loop's thread owns every table here; decoding and the model have threads of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bundle.errors import DeadlineExceeded
from bundle.masking import Masking, keep_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.cores import usable_cores
from service.admission import Admission
from service.batcher import Done
from service.cache import NO_STORE, USE, CachePolicy, MemoryCache, RemoteCache, Vector, context_key
from service.decoding import DecodePool, make_decoder
from service.device import Computed, Device
from service.errors import NotOffered
from service.flights import Flight, Flights, all_landed, raise_failure
from service.metrics import Metrics
from service.offload import by_size
from service.options import EmbedQuery, ReconstructQuery
from service.outcome import Answer, Outcome
from service.programs import FeatureName, Item, PoolingName, Program
from service.reconstruct import encode_png, pixels_of
from service.redis_store import RedisStore
from service.sent import Sent, Shared, key_of, num_bytes
from service.settings import Settings

T = TypeVar("T")

_MOST_JOBS = 256  # that are kept made: clients ask for the same few over and over
_RENDERERS = 4  # threads for large answers; more would take cores from the model


@dataclass(frozen=True, eq=False)
class _Job:
    """What to do with an image of a request; all of a request's have one program."""

    program: Program
    ids_keep: NDArray[np.int64]  # [K]
    ids_restore: NDArray[np.int64] | None
    context: str  # the caches' key without the image


class Engine:
    """Serves one bundle on one device, or several alike. Make it inside a running event loop; `close` ends its threads
    and the device.

    BundleError if the bundle's images cannot come from image files.
    """

    def __init__(self, bundle: Bundle, device: Device, settings: Settings, metrics: Metrics) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.device = device
        self._metrics = metrics
        self._decoder = make_decoder(bundle.manifest, settings)
        self._timeout_s = settings.timeout_ms / 1000
        self._max_images = settings.max_images
        self._stall_s = settings.stall_s
        self._decoders = None if device.decodes else self._open_decoders(settings)
        self._renderers = ThreadPoolExecutor(min(_RENDERERS, usable_cores()), thread_name_prefix="render")
        self._embed_jobs: dict[tuple[tuple[FeatureName, ...], float], _Job] = {}
        self.memory = MemoryCache(settings.cache_bytes)
        self.remote = None if settings.redis_url is None else _remote(settings.redis_url, settings, metrics)
        self._flights: Flights[Outcome] = Flights()
        self._private = 0  # requests so far that would not share
        self.admission = Admission(settings.max_queue, held=lambda: device.held)
        self._watch()

    async def embed(
        self, images: Sequence[bytes], query: EmbedQuery, deadline: float, policy: CachePolicy = USE
    ) -> Answer:
        """Poolings one after the other, not normalised; see Programs.run. `deadline`: in the loop's time."""
        job = self._embed_job(self.poolings(query), query.keep)
        return await self._answer(images, [job] * len(images), deadline, policy)

    async def encode(
        self, images: Sequence[Sent], features: tuple[FeatureName, ...], deadline: float, policy: CachePolicy = USE
    ) -> Answer:
        """Features one after the other, not normalised, of all patches or those that an Item names.

        Items are of one number of patches. Encoded images share the cache with `embed`.
        """
        job = self._embed_job(features, 1.0)
        if isinstance(images[0], Item):
            ids = images[0].ids_keep
            job = self._job(Program("embed", len(ids), features), ids, None, *features)
        return await self._answer(images, [job] * len(images), deadline, policy)

    async def classify(self, images: Sequence[Sent], deadline: float, policy: CachePolicy = USE) -> Answer:
        """Logits; of pixels, where an Item holds some. NotOffered if the bundle has no classifier."""
        if not self.manifest.can_classify:
            raise NotOffered(f"the bundle {self.manifest.name} has no classifier")
        ids = keep_ids(self.manifest.model.num_patches, 1)
        job = self._job(Program("classify", len(ids)), ids, None)
        return await self._answer(images, [job] * len(images), deadline, policy)

    async def reconstruct(
        self, image: bytes, maskings: Sequence[Masking], deadline: float, policy: CachePolicy = USE
    ) -> Answer:
        """A value per masking: the pixels 0..255, then the decoder's patches. NotOffered if the bundle has no decoder.

        The maskings keep one number of patches. Each is an image to the queue and the caches; the bytes are decoded
        once.
        """
        if not self.manifest.can_reconstruct:
            raise NotOffered(f"the bundle {self.manifest.name} has no decoder")
        program = Program("reconstruct", len(maskings[0].ids_keep))
        jobs = [
            self._job(program, each.ids_keep, each.ids_restore, sha256(each.ids_restore.tobytes()).hexdigest())
            for each in maskings
        ]
        images = [image] if len(jobs) == 1 else [Shared(image)] * len(jobs)
        return await self._answer(images, jobs, deadline, policy)

    def poolings(self, query: EmbedQuery) -> tuple[PoolingName, ...]:
        return query.poolings(self.manifest.pooling)

    def maskings(self, query: ReconstructQuery) -> list[Masking]:
        """BadParameter if the query does not fit the bundle's patches, or asks for more passes than one request may."""
        return query.maskings(self.manifest.model.num_patches, max_passes=self.max_passes)

    @property
    def max_passes(self) -> int:
        """Each is an image to the queue, and more at once than reconstructions have places would never be let in."""
        return min(self._max_images, self.admission.most("reconstruct"))

    @property
    def stalled_s(self) -> float:
        """Seconds that the longest of the calls now running has taken, the model's or a decoder's; infinite once a
        thread has died.
        """
        return max(self.device.stalled_s, 0.0 if self._decoders is None else self._decoders.stalled_s)

    async def offload(self, work: Callable[[], T]) -> T:
        """Run what would hold up the event loop on another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._renderers, work)

    async def warm_up(self) -> None:
        """Decode one image of nothing: Pillow looks for its decoders at the first, which takes a moment."""
        channels = self.manifest.model.channels
        nothing = encode_png(np.zeros((1, 1, channels), np.uint8))
        await self.offload(lambda: preprocess(nothing, self.manifest.preprocess, channels=channels))

    async def close(self) -> None:
        """What is in flight fails with Unavailable; threads, connections and the device end."""
        await self._flights.close()
        if self._decoders is not None:
            await self._decoders.close(patience_s=self._stall_s)
        await self.device.close()
        self._renderers.shutdown(cancel_futures=True)
        if self.remote is not None:
            await self.remote.close()

    def _embed_job(self, poolings: tuple[FeatureName, ...], keep: float) -> _Job:
        job = self._embed_jobs.get((poolings, keep))
        if job is None:
            ids = keep_ids(self.manifest.model.num_patches, keep)
            job = self._job(Program("embed", len(ids), poolings), ids, None, *poolings)
            if len(self._embed_jobs) == _MOST_JOBS:
                del self._embed_jobs[next(iter(self._embed_jobs))]  # the oldest
            self._embed_jobs[poolings, keep] = job
        return job

    def _job(
        self, program: Program, ids_keep: NDArray[np.int64], ids_restore: NDArray[np.int64] | None, *params: str
    ) -> _Job:
        info = self.device.infos[0]
        context = context_key(
            self.manifest.digest, info.runtime, info.precision, program.operation, str(program.num_keep), *params
        )
        return _Job(program, ids_keep, ids_restore, context)

    async def _answer(
        self, images: Sequence[Sent | Shared], jobs: Sequence[_Job], deadline: float, policy: CachePolicy
    ) -> Answer:
        """`jobs`: what to do with each image."""
        keys = await by_size(
            sum(map(num_bytes, images)),
            lambda: [key_of(job.context, image) for job, image in zip(jobs, images, strict=True)],
        )
        found = self._recall(keys, policy)
        known = [value for value in found if value is not None]
        self._count_recalled(len(known), len(keys), policy)
        if len(known) == len(keys):
            self._metrics.image(jobs[0].program.operation, "memory", len(known))
            return Answer(known, [True] * len(known), {})
        outcomes = await self._fly(images, keys, found, jobs, deadline, policy)
        return self._account(jobs[0].program, outcomes, policy)

    def _recall(self, keys: Sequence[str], policy: CachePolicy) -> list[Vector | None]:
        """What the memory knows."""
        return [self.memory.get(key) for key in keys] if policy.read else [None] * len(keys)

    def _count_recalled(self, num_known: int, num_asked: int, policy: CachePolicy) -> None:
        if not policy.read:
            self._metrics.cache("memory", "bypass", num_asked)
            return
        if num_known:
            self._metrics.cache("memory", "hit", num_known)
        if num_known < num_asked:
            self._metrics.cache("memory", "miss", num_asked - num_known)

    async def _fly(
        self, images: Sequence[Sent | Shared], keys: list[str], found: Sequence[Vector | None], jobs: Sequence[_Job],
        deadline: float, policy: CachePolicy,
    ) -> list[Outcome]:  # fmt: skip
        """Fetch what was not found, each image once, and every request's together where they may share."""
        if not policy.read:
            self._private += 1
            keys = [f"{key} {self._private}" for key in keys]  # flights that no other request finds
        new = {key for key, value in zip(keys, found, strict=True) if value is None and key not in self._flights}
        self.admission.enter(len(new), jobs[0].program.operation)
        flights: dict[int, Flight[Outcome]] = {}
        shared: set[int] = set()
        try:
            for i, (key, image) in enumerate(zip(keys, images, strict=True)):
                if found[i] is None:
                    if key in self._flights:
                        shared.add(i)
                    flights[i] = self._board(key, image, jobs[i], deadline, policy)
            await all_landed(flights.values())
            for i, flight in flights.items():
                raise_failure(flight, 0 if isinstance(images[i], Shared) else i)
            return [
                Outcome(value, "memory") if value is not None else _landed(flights[i], shared=i in shared)
                for i, value in enumerate(found)
            ]
        finally:
            for i, flight in flights.items():
                self._flights.leave(keys[i], flight)

    def _board(
        self, key: str, image: Sent | Shared, job: _Job, deadline: float, policy: CachePolicy
    ) -> Flight[Outcome]:
        return self._flights.join(
            key,
            lambda: self._fetch(key.split(" ")[0], image, job, deadline, policy),
            lambda task: self.admission.leave(job.program.operation, finished=not task.cancelled()),
        )

    async def _fetch(self, key: str, image: Sent | Shared, job: _Job, deadline: float, policy: CachePolicy) -> Outcome:
        """From Redis, or by computing it."""
        start = time.perf_counter()
        if self.remote is not None and not policy.read:
            self._metrics.cache("redis", "bypass")
        elif self.remote is not None:
            value = await self.remote.get(key, job.program.num_values(self.manifest))
            if value is not None:
                self.memory.put(key, value)
                return Outcome(value, "redis", {"cache": time.perf_counter() - start})
        looked_up = time.perf_counter()
        if isinstance(image, Shared):
            done = await self._compute_shared(image, job, deadline)
        else:
            item = image if isinstance(image, Item) else Item(image, job.ids_keep, job.ids_restore)
            done = await self._compute(job.program, item, deadline)
        value, decode_s = done.value.value, done.value.decode_s
        if policy.write:
            self._keep(key, value)
        stages = {
            "cache": looked_up - start,
            "decode": decode_s,
            "queue": done.queue_s,
            "infer": done.infer_s - decode_s,
        }
        return Outcome(value, "computed", stages)

    def _keep(self, key: str, value: Vector) -> None:
        """In both tiers, unless a model call went wrong without an error: that must not last."""
        if np.isfinite(value).all():
            self.memory.put(key, value)
            if self.remote is not None:
                self.remote.put(key, value)

    async def _compute_shared(self, image: Shared, job: _Job, deadline: float) -> Done[Computed]:
        """A reconstruction of an image that others share, with the pixels that the first of them brought."""
        start = time.perf_counter()
        async with image.turn:
            if image.pixels is None:
                done = await self._compute(job.program, Item(image.data, job.ids_keep, job.ids_restore), deadline)
                image.pixels = pixels_of(done.value.value, self.manifest).astype(np.uint8)
                return done
        waited_s = time.perf_counter() - start
        done = await self._compute(job.program, Item(image.pixels, job.ids_keep, job.ids_restore), deadline)
        return replace(done, queue_s=waited_s + done.queue_s)

    async def _compute(self, program: Program, item: Item, deadline: float) -> Done[Computed]:
        """Once more if it was too late: whoever began this has left by then, and somebody with more time shares it.

        This task would be cancelled otherwise. Nobody has more time than the setting grants from now on.
        """
        while True:
            try:
                return await self._compute_once(program, item, deadline)
            except DeadlineExceeded:
                deadline = asyncio.get_running_loop().time() + self._timeout_s

    async def _compute_once(self, program: Program, item: Item, deadline: float) -> Done[Computed]:
        """As the device, its decoding within `infer_s`, whoever decoded."""
        if self._decoders is None or not isinstance(item.image, bytes):
            return await self.device.submit(program, item, deadline=deadline)
        async with self._decoders.decoded(program.operation, item, deadline=deadline) as decoded:
            done = await self.device.submit(program, decoded.value, deadline=deadline)
        value, decode_s = done.value.value, decoded.infer_s
        return Done(Computed(value, decode_s), decoded.queue_s + done.queue_s, decode_s + done.infer_s)

    def _open_decoders(self, settings: Settings) -> DecodePool:
        threads = usable_cores() if settings.decode_threads is None else max(1, settings.decode_threads)
        return DecodePool(self._decoder, threads=threads, ahead=partial(_images_ahead, self.device))

    def _account(self, program: Program, outcomes: Sequence[Outcome], policy: CachePolicy) -> Answer:
        stages: dict[str, float] = {}
        for outcome in outcomes:
            self._metrics.image(program.operation, outcome.source)
            for stage, seconds in outcome.stages.items():
                stages[stage] = max(seconds, stages.get(stage, 0.0))
                if outcome.source != "flight":
                    self._metrics.stage(stage, seconds)
        cached = [outcome.source in ("memory", "redis") for outcome in outcomes]
        return Answer([outcome.value for outcome in outcomes], cached, stages, stored=policy is not NO_STORE)

    def _watch(self) -> None:
        watch = self._metrics.watch
        devices = [(info.runtime, info.device, info.precision, info.lanes) for info in self.device.infos]
        self._metrics.describe(self.manifest.name, self.manifest.digest, devices)
        admission = self.admission
        drain, cap, ready = admission.drain_s, self._batch_cap, lambda: self.device.ready
        watch("maeve_pending_images", "Images waiting or being worked on.", lambda: admission.pending)
        watch("maeve_places", "Places for images that wait or are worked on.", lambda: admission.max_queue)
        watch("maeve_places_held", "Places that cancelled images hold for a moment yet.", lambda: self.device.held)
        watch("maeve_drain_seconds", "When the pending images will be done, at the present pace.", drain, across="max")
        watch(
            "maeve_batch_cap", "Most images per model call, of the operation that may have fewest.", cap, across="min"
        )
        watch("maeve_device_ready", "1 while what is sent to the device is computed.", ready, across="min")
        watch("maeve_device_call_seconds", "Age of the oldest model call that runs.", self._call_s, across="max")
        threads = 0 if self._decoders is None else self._decoders.threads
        watch("maeve_decode_threads", "Threads that decode images beside the model.", lambda: threads)
        watch("maeve_cache_bytes", "Memory taken by results in this process.", lambda: self.memory.num_bytes)
        watch("maeve_cache_entries", "Results in this process.", lambda: len(self.memory))
        up = lambda: bool(self.remote and self.remote.up)  # noqa: E731
        watch("maeve_redis_up", "1 while Redis is in use and answers.", up, across="min")

    def _batch_cap(self) -> int:
        return min(info.max_batch for info in self.device.infos)

    def _call_s(self) -> float:
        return self.device.stalled_s


def _images_ahead(device: Device) -> int:
    """Those of the calls that run, and as many for the next ones."""
    return 2 * sum(info.lanes * info.max_batch for info in device.infos)


def _remote(url: str, settings: Settings, metrics: Metrics) -> RemoteCache:
    store = RedisStore(
        url, timeout_s=settings.redis_timeout_ms / 1000, ttl_s=settings.redis_ttl_s, prefix=settings.redis_prefix
    )
    return RemoteCache(store, metrics=metrics)


def _landed(flight: Flight[Outcome], *, shared: bool) -> Outcome:
    outcome = flight.result()
    return replace(outcome, source="flight") if shared and outcome.source == "computed" else outcome
