"""How a process is judged by what it says, and by its silence."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from bundle.errors import RuntimeUnavailable
from service.ipc.keeper import Keeper
from tests.service.ipc.helpers import alive

SERVING = {"type": "serving"}


class Kept:
    """A keeper of a process that says `say` and then ends, or hangs."""

    def __init__(self, *say: dict[str, Any], then: str = "hang", stall_s: float = 0.5) -> None:
        self.deaths: list[tuple[float, int]] = []
        self.states: list[str] = []
        self.keeper = Keeper(
            "stubborn", "device", "tests.service.ipc.stubborn", lambda: {"say": say, "then": then}, [],
            stall_s=stall_s, on_message=lambda _, __: None, on_change=self._changed,
            on_death=lambda _, pid: self.deaths.append((time.monotonic(), pid)),
        )  # fmt: skip

    async def died(self, times: int) -> None:
        async with asyncio.timeout(20):
            while len(self.deaths) < times:  # noqa: ASYNC110 - a test need not be woken
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        await self.keeper.stop(signal.SIGTERM, 5)
        assert self.keeper.pid is None

    def _changed(self) -> None:
        self.states.append(self.keeper.state)


async def test_silence_after_a_beat_is_the_end_and_the_next_is_started() -> None:
    kept = Kept(SERVING, {"type": "beat", "stalled_s": 0.0})
    await kept.keeper.proven
    await kept.died(2)
    assert kept.states[:3] == ["starting", "serving", "was killed: no sign of life for 0.5 s"]
    assert len({pid for _, pid in kept.deaths}) == 2
    assert not any(alive(pid) for _, pid in kept.deaths)
    assert kept.keeper.restarts >= 1
    await kept.end()


async def test_a_model_call_that_takes_too_long_is_the_end() -> None:
    kept = Kept(SERVING, {"type": "beat", "stalled_s": 0.4}, {"type": "beat", "stalled_s": float("inf")})
    await kept.died(1)
    assert kept.states[:3] == ["starting", "serving", "was killed: a model call has been running for inf s"]
    await kept.end()


async def test_a_start_may_take_its_time() -> None:
    kept = Kept(stall_s=0.05)
    await asyncio.sleep(0.5)
    assert kept.states == ["starting"]
    await kept.end()
    assert not kept.keeper.proven.done()


async def test_who_cannot_start_at_all_is_not_started_again() -> None:
    kept = Kept({"type": "refused", "message": "there is no GPU"}, then="end")
    with pytest.raises(RuntimeUnavailable, match="there is no GPU"):
        await kept.keeper.proven
    await kept.end()
    assert len(kept.deaths) == 1
    mute = Kept(then="end")
    with pytest.raises(RuntimeUnavailable, match="stubborn ended with status 7"):
        await mute.keeper.proven
    await mute.end()


async def test_the_pause_grows_while_they_die_young() -> None:
    kept = Kept(SERVING, then="end")
    await kept.died(4)
    gaps = [b - a for (a, _), (b, _) in zip(kept.deaths, kept.deaths[1:], strict=False)]
    assert gaps[0] > 0.1
    assert gaps[1] > 0.2
    assert gaps[2] > 0.4
    await kept.end()


async def test_one_that_does_not_end_is_killed() -> None:
    kept = Kept(SERVING, {"type": "beat", "stalled_s": 0.0}, stall_s=60)
    await kept.keeper.proven
    pid = kept.keeper.pid
    assert pid is not None
    await kept.keeper.stop(signal.SIGCONT, 0.2)  # a signal that ends nothing
    assert not alive(pid)
