"""How a process is judged by what it says, and by its silence."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from typing import Any

import pytest

from bundle.errors import RuntimeUnavailable
from bundle.store import Bundle
from service.ipc.child import BEAT_S, dump_settings
from service.ipc.framing import Control
from service.ipc.keeper import Keeper
from service.settings import Settings
from tests.service.ipc.helpers import alive

SERVING = {"type": "serving"}
BEAT = {"type": "beat", "stalled_s": 0.0}


class Kept:
    """A keeper of a process that says `say` and then ends, hangs, or shows that it lives. `later`: what those after the
    first are told to do.
    """

    def __init__(self, *say: dict[str, Any], then: str = "hang", stall_s: float = 0.5) -> None:
        self._message: dict[str, Any] = {"say": say, "then": then}
        self.later = self._message
        self.deaths: list[tuple[float, int]] = []
        self.states: list[str] = []
        self.keeper = Keeper(
            "stubborn", "device", "tests.service.ipc.stubborn", self._next, [],
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

    def _next(self) -> dict[str, Any]:
        message, self._message = self._message, self.later
        return message

    def _changed(self) -> None:
        self.states.append(self.keeper.state)


async def test_silence_after_a_beat_is_the_end_and_the_next_is_started() -> None:
    kept = Kept(SERVING, BEAT)
    await kept.keeper.proven
    await kept.died(2)
    assert kept.states[:3] == ["starting", "serving", "was killed: no sign of life for 1.5 s"]
    assert len({pid for _, pid in kept.deaths}) == 2
    assert not any(alive(pid) for _, pid in kept.deaths)
    assert kept.keeper.restarts >= 1
    await kept.end()


async def test_a_call_that_takes_too_long_is_the_end() -> None:
    kept = Kept(SERVING, {"type": "beat", "stalled_s": 0.4}, {"type": "beat", "stalled_s": float("inf")})
    await kept.died(1)
    assert kept.states[:3] == ["starting", "serving", "was killed: a call has been running for inf s"]
    await kept.end()


async def test_a_start_may_take_its_time() -> None:
    kept = Kept(stall_s=0.05)
    await asyncio.sleep(0.5)
    assert kept.states == ["starting"]
    await kept.end()
    assert not kept.keeper.proven.done()


async def test_who_speaks_at_every_beat_is_not_silent_however_short_a_call_may_be() -> None:
    kept = Kept(SERVING, then="beat", stall_s=0.05)
    await kept.keeper.proven
    await asyncio.sleep(3 * BEAT_S)
    assert kept.states == ["starting", "serving"]
    await kept.end()


async def test_a_start_after_the_first_must_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.ipc.keeper._LEAST_RESTART_S", 4 * BEAT_S)
    kept = Kept(SERVING, then="end", stall_s=0.05)
    kept.later = {"say": [], "then": "beat"}
    await kept.died(2)
    assert kept.states[4] == f"was killed: it did not serve within {4 * BEAT_S:g} s"
    await kept.end()


async def test_a_start_after_the_first_is_killed_when_it_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.ipc.keeper._OPENING_SILENCE_S", 2 * BEAT_S)
    kept = Kept(SERVING, then="end", stall_s=0.05)
    kept.later = {"say": [BEAT], "then": "hang"}
    await kept.died(2)
    assert kept.states[4] == f"was killed: no sign of life for {0.05 + 2 * BEAT_S:g} s"
    await kept.end()


async def test_a_device_lives_while_it_opens(fake_bundle: Bundle) -> None:
    mine, its = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, its:
        command = [sys.executable, "-m", "service.ipc.device_main", "cpu", str(its.fileno())]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=[its.fileno(), listener.fileno()])
        control = await Control.over(mine)
        control.send(
            {"settings": dump_settings(Settings(runtime="fake")), "device": "cpu", "bundle": str(fake_bundle.path),
             "digest": fake_bundle.manifest.digest, "listener": listener.fileno()}
        )  # fmt: skip
        heard = await control.receive()
        assert heard == BEAT
        while heard == BEAT:
            heard = await control.receive()
        assert heard is not None
        assert heard["type"] == "serving"
        await control.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0


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
    kept = Kept(SERVING, BEAT, stall_s=60)
    await kept.keeper.proven
    pid = kept.keeper.pid
    assert pid is not None
    await kept.keeper.stop(signal.SIGCONT, 0.2)  # a signal that ends nothing
    assert not alive(pid)
