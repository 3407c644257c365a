"""Whatever happens, every future ends, with its own result or its own error: engine, decode pool, batcher, runtime.

Operations, deadlines, cancellations, broken images, failing and exiting calls, out of memory, results that are lost and
an early end, in any mixture; and a batcher alone, of which no lane may idle while work waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundle.errors import InferenceError, InvalidInput, OutOfMemory, Unavailable
from bundle.manifest import GraphName
from bundle.masking import Masking, complementary_maskings, random_masking
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.fake import FakeRuntime
from service.batcher import Batcher, Done
from service.engine import Engine
from service.metrics import Metrics
from service.opening import local_device
from service.options import EmbedQuery
from service.programs import Item, Operation, Program, Programs
from service.settings import Settings
from tests.service.helpers import photo

TIMEOUT_S = 20
NUM_PHOTOS = 24
PHOTOS = [photo(seed) for seed in range(NUM_PHOTOS)]
FATES = ["fine", "fine", "fine", "fine", "poison", "exit", "lost", "hungry", "broken"]

Ask = tuple[int, Operation, str, int | None, bool]  # photo, operation, what befalls it, cancelled after ms, in haste

asks = st.lists(
    st.tuples(
        st.integers(0, NUM_PHOTOS - 1),
        st.sampled_from(["embed", "reconstruct", "classify"]),
        st.sampled_from(FATES),
        st.one_of(st.none(), st.none(), st.integers(0, 8)),
        st.booleans(),
    ),
    max_size=30,
    unique_by=lambda ask: ask[0],
)


class FatefulRuntime(FakeRuntime):
    """What befalls an image befalls every call that it is in; a hungry one fits alone."""

    def __init__(self, bundle: Bundle, fates: Mapping[bytes, str], **options: Any) -> None:
        super().__init__(bundle, **options)
        self.fates = fates

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        outputs = super().run(graph, inputs, wanted)
        if "images" not in inputs:
            return outputs
        fates = {self.fates[image.tobytes()] for image in inputs["images"]}
        if "exit" in fates:
            raise KeyboardInterrupt
        if "hungry" in fates and len(inputs["images"]) > 1:
            raise OutOfMemory("too many")
        if "poison" in fates:
            raise InferenceError("poison")
        if "lost" in fates:
            return {name: array[:0] for name, array in outputs.items()}
        return outputs


def pixels_of(bundle: Bundle, number: int) -> NDArray[np.uint8]:
    return preprocess(PHOTOS[number], bundle.manifest.preprocess)


@settings(max_examples=60, deadline=None)
@given(
    asked=asks,
    lanes=st.integers(1, 3),
    max_batch=st.integers(1, 6),
    buckets=st.sampled_from([(), (2, 4)]),
    decode_threads=st.integers(0, 2),
    latency_ms=st.sampled_from([0.0, 0.5, 2.0]),
    close_after_ms=st.one_of(st.none(), st.none(), st.integers(0, 10)),
)
def test_every_request_ends_with_its_own_answer_or_its_own_error(
    fake_bundle: Bundle,
    asked: list[Ask],
    lanes: int,
    max_batch: int,
    buckets: tuple[int, ...],
    decode_threads: int,
    latency_ms: float,
    close_after_ms: int | None,
) -> None:
    fates = {pixels_of(fake_bundle, number).tobytes(): fate for number, _, fate, _, _ in asked}
    runtime = FatefulRuntime(
        fake_bundle, fates, lanes=lanes, max_batch=max_batch, buckets=buckets, latency_ms=latency_ms
    )

    async def meet() -> None:
        chosen, metrics = Settings(decode_threads=decode_threads), Metrics()
        engine = Engine(fake_bundle, local_device(fake_bundle, runtime, chosen, metrics), chosen, metrics)
        tasks = [asyncio.create_task(_ask(engine, ask)) for ask in asked]
        loop = asyncio.get_running_loop()
        for task, (_, _, _, cancelled_after_ms, _) in zip(tasks, asked, strict=True):
            if cancelled_after_ms is not None:
                loop.call_later(cancelled_after_ms / 1000, task.cancel)
        if close_after_ms is not None:
            await asyncio.sleep(close_after_ms / 1000)
            await engine.close()
        async with asyncio.timeout(TIMEOUT_S):
            endings = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.admission.pending == 0 or close_after_ms is not None
        await engine.close()
        for ask, ending in zip(asked, endings, strict=True):
            _check(fake_bundle, ask, ending, closed=close_after_ms is not None)

    asyncio.run(meet())
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("lane", "decode"))]


async def _ask(engine: Engine, ask: Ask) -> NDArray[np.float32]:
    number, operation, fate, _, in_haste = ask
    image = PHOTOS[number][:60] if fate == "broken" else PHOTOS[number]
    deadline = asyncio.get_running_loop().time() + (0.002 if in_haste else 60)
    match operation:
        case "embed":
            answer = await engine.embed([image], EmbedQuery(), deadline)
        case "classify":
            answer = await engine.classify([image], deadline)
        case "reconstruct":
            answer = await engine.reconstruct(image, _maskings(number), deadline)
    return np.concatenate(answer.values)


def _check(bundle: Bundle, ask: Ask, ending: object, *, closed: bool) -> None:
    number, operation, fate, cancelled_after_ms, _ = ask
    match ending:
        case np.ndarray():
            assert fate in ("fine", "hungry")
            np.testing.assert_array_equal(ending, _alone(bundle, number, operation))
        case asyncio.CancelledError():
            assert cancelled_after_ms is not None
        case Unavailable():
            assert closed
        case InvalidInput():
            assert fate == "broken"
        case Exception():
            assert fate in ("poison", "exit", "lost"), (fate, ending)
        case _:
            raise AssertionError(ending)


def _maskings(number: int) -> list[Masking]:
    """One, or as many passes over one image as hide every patch and one more."""
    return complementary_maskings(16, 0.5, number, 3) if number % 2 else [random_masking(16, 0.75, number)]


def _alone(bundle: Bundle, number: int, operation: Operation) -> NDArray[np.float32]:
    """What a runtime gives for this image and no other."""
    pixels = pixels_of(bundle, number)
    if operation == "reconstruct":
        items = [Item(pixels, masking.ids_keep, masking.ids_restore) for masking in _maskings(number)]
    else:
        items = [Item(pixels, np.arange(16))]
    program = Program(operation, len(items[0].ids_keep), ("mean",) if operation == "embed" else ())
    return np.concatenate(Programs(bundle.manifest, FakeRuntime(bundle)).run(program, items))


class Held:
    """Runs negated numbers once it is let; remembers them all."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.open = threading.Event()

    def run(self, key: str, items: list[int]) -> list[int]:
        self.seen += items
        assert self.open.wait(TIMEOUT_S), key
        return [-item for item in items]


@settings(max_examples=60, deadline=None)
@given(
    bursts=st.lists(
        st.lists(st.tuples(st.sampled_from(["a", "aa", "b", "bbb"]), st.booleans()), max_size=12),
        min_size=1,
        max_size=4,
    ),
    lanes=st.integers(1, 4),
    max_batch=st.integers(1, 5),
    buckets=st.sampled_from([(), (2, 4)]),
)
def test_no_lane_idles_while_work_waits(
    bursts: list[list[tuple[str, bool]]], lanes: int, max_batch: int, buckets: tuple[int, ...]
) -> None:
    """Calls are held up: after every burst all lanes are soon in one, or nothing is left for them.

    And nothing runs that was cancelled before a lane could look.
    """

    async def meet() -> None:
        device = Held()
        batcher: Batcher[str, int, int] = Batcher(
            device.run, lanes=lanes, max_batch=max_batch, buckets=buckets, kind_of=lambda key: key[0]
        )
        cancelled: dict[asyncio.Future[Done[int]], bool] = {}
        for burst in bursts:
            with batcher._changed:  # no lane looks before some are cancelled
                futures = [batcher.submit(key, len(cancelled) + i) for i, (key, _) in enumerate(burst)]
                cancelled |= {
                    future: leaves and future.cancel() for future, (_, leaves) in zip(futures, burst, strict=True)
                }
            async with asyncio.timeout(TIMEOUT_S):
                while len(batcher._batches) < lanes and len(batcher._waiting):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0)
        device.open.set()
        await asyncio.wait_for(asyncio.gather(*cancelled, return_exceptions=True), TIMEOUT_S)
        await batcher.close()
        assert sorted(device.seen) == [i for i, gone in enumerate(cancelled.values()) if not gone]
        for i, (future, gone) in enumerate(cancelled.items()):
            assert future.cancelled() if gone else future.result().value == -i

    asyncio.run(meet())
