"""The device of one process: what it tells of a call that hangs, and its end."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.errors import InferenceError, Unavailable
from bundle.store import Bundle
from runtime.fake import FakeRuntime
from service.device import LocalDevice
from service.metrics import Metrics
from service.programs import Item, Program, Programs
from tests.service.helpers import Hold, eventually, pixels

TIMEOUT_S = 10
EMBED = Program("embed", 16, ("mean",))


def make_item(seed: int) -> Item:
    return Item(pixels(seed, 32, 32), np.arange(16))


async def test_it_tells_how_long_a_call_has_taken_and_gives_it_up_at_the_end(fake_bundle: Bundle) -> None:
    hold = Hold()
    runtime = FakeRuntime(fake_bundle, fail_on=hold)
    programs = Programs(fake_bundle.manifest, runtime)
    device = LocalDevice(programs, runtime, Metrics(), max_batch=4, decoder=None, stall_s=0.2)
    assert (device.ready, device.stalled_s) == (True, 0.0)
    with hold:
        hung = device.submit(EMBED, make_item(1), deadline=time.monotonic() + 60)
        await asyncio.to_thread(eventually, lambda: runtime.calls)
        await asyncio.sleep(0.05)
        assert 0.05 <= device.stalled_s < TIMEOUT_S
        await asyncio.wait_for(device.close(), TIMEOUT_S)
        with pytest.raises(Unavailable):
            await hung
        runtime.fail_on = None
        runtime.run("head", head_inputs())  # still open
    await asyncio.to_thread(eventually, lambda: device._batcher.ended)
    await asyncio.wait_for(device.close(), TIMEOUT_S)
    with pytest.raises(InferenceError, match="closed"):
        runtime.run("head", head_inputs())


def head_inputs() -> dict[str, NDArray[np.float32]]:
    return {"mean": np.zeros((1, 32), np.float32)}


async def test_reconstructions_do_not_starve_embeddings(fake_bundle: Bundle) -> None:
    runtime = FakeRuntime(fake_bundle, latency_ms=3)
    programs = Programs(fake_bundle.manifest, runtime)
    device = LocalDevice(programs, runtime, Metrics(), max_batch=1, decoder=None)
    order = np.arange(16)
    flood = [
        device.submit(
            Program("reconstruct", 4), Item(pixels(seed, 32, 32), order[:4], order), deadline=time.monotonic() + 60
        )
        for seed in range(60)
    ]
    await asyncio.wait_for(flood[2], TIMEOUT_S)
    for seed in range(5):
        await asyncio.wait_for(device.submit(EMBED, make_item(seed), deadline=time.monotonic() + 60), TIMEOUT_S)
    assert sum(future.done() for future in flood) <= 20
    await device.close()
