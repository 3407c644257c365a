"""One process of the service and its successors: started, listened to, killed when it hangs, started again."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

from bundle.errors import RuntimeUnavailable
from service.ipc.child import BEAT_S
from service.ipc.framing import Control, Message, ProtocolError

log = logging.getLogger("service.supervisor")

Kind = Literal["worker", "device"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_YOUNG_S = 10.0  # who dies before this age has died of something that may well be there again
_LEAST_RESTART_S = 300.0  # engines that were built once are read from their cache
_OPENING_SILENCE_S = 30.0  # where a library that is loaded lets no other thread run
_END_S = 5.0  # from the end of its line to the end of a process


class Keeper:
    """`module`, `message`, `fds`: what the process runs, what it is told first (made anew for each), and the
    descriptors that it inherits. `on_message`: takes what it says, but for signs of life. `on_change`: called when one
    has started, proved itself or ended; `on_death`: with the process id of one that is gone.

    `proven` resolves when the first of them has said that it serves, and fails with RuntimeUnavailable if it ends
    before; then there is no second.

    `stall_s`: how long a call of its may take. It may be silent for two beats longer, or 30 s while it opens. The first
    start may take any time. One that is started again is killed when it falls silent after its first sign of life, and
    when it does not serve in time.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        module: str,
        message: Callable[[], Message],
        fds: Sequence[int],
        *,
        stall_s: float,
        on_message: Callable[[Keeper, Message], None],
        on_change: Callable[[], None],
        on_death: Callable[[Keeper, int], None],
    ) -> None:
        self.name = name
        self.kind = kind
        self.restarts = 0
        self.state = "starting"
        self.proven: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._module = module
        self._message = message
        self._fds = fds
        self._stall_s = stall_s
        self._on_message = on_message
        self._on_change = on_change
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._control: Control | None = None
        self._refusal: str | None = None
        self.stopping = False
        self._task = asyncio.create_task(self._keep())

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        return None if self._process is None else self._process.pid

    @property
    def serving(self) -> bool:
        return self.state == "serving"

    def send(self, message: Message) -> None:
        """To the process there is; the next one has to be told by other means."""
        if self._control is not None:
            self._control.send(message)

    def signal(self, number: int) -> None:
        """To the process there is."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, number: int, grace_s: float) -> None:
        """Send the signal, wait for the end, kill after `grace_s`. None is started again. Idempotent."""
        self.stopping = True
        self.signal(number)
        if self._process is None:  # in a pause between two
            self._task.cancel()
        if not (await asyncio.wait([self._task], timeout=grace_s))[0]:
            log.warning("%s did not end within %g s and was killed", self.name, grace_s)
            self.kill()
            await asyncio.wait([self._task])

    def kill(self) -> None:
        """At once. None is started again if `stop` was called."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self.stopping:
            started = time.monotonic()
            try:
                await self._live()
            except OSError as e:  # no memory or no more processes, for now
                self._process = None
                self._say(f"cannot be started: {e}")
            if self.stopping:
                return
            if not self.proven.done():
                self.proven.set_exception(RuntimeUnavailable(self._refusal or f"{self.name} {self.state}"))
                return
            log.error("%s %s; it is started again", self.name, self.state)
            if time.monotonic() - started < _YOUNG_S:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S
            self.restarts += 1

    async def _live(self) -> None:
        """One process, from its start to its end."""
        mine, its = socket.socketpair()
        self._refusal = None
        with its:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._module, self.name, str(its.fileno()),
                pass_fds=[its.fileno(), *self._fds], stdin=asyncio.subprocess.DEVNULL,
                process_group=0,  # Ctrl+C is for the supervisor, which tells the others
            )  # fmt: skip
        self._control = control = await Control.over(mine)
        control.send(self._message())
        self._say("starting")
        if self.stopping:  # it was asked for while the process was being made
            process.kill()
        reason = await self._listen(control)
        self._control = None
        await control.close()
        status = await self._end(process)
        self._process = None
        self._on_death(self, process.pid)
        self._say(self._refusal or reason or _told(status))

    async def _listen(self, control: Control) -> str | None:
        """Until the line has ended; why the process was killed, where it was."""
        restart_s = max(10 * self._stall_s, _LEAST_RESTART_S)
        silent_at = math.inf
        late_at = time.monotonic() + restart_s if self.proven.done() else math.inf
        while True:
            left_s = min(silent_at, late_at) - time.monotonic()
            try:
                async with asyncio.timeout(None if left_s == math.inf else left_s):
                    message = await control.receive()
            except TimeoutError:
                if late_at < silent_at:
                    return self._killed(f"it did not serve within {restart_s:g} s")
                return self._killed(f"no sign of life for {self._silence_s:g} s")
            except ProtocolError as e:
                return self._killed(f"it cannot be understood: {e}")
            match message:
                case None:
                    return None
                case {"type": "beat", "stalled_s": float(stalled_s)}:
                    if stalled_s > self._stall_s:
                        return self._killed(f"a call has been running for {stalled_s:.1f} s")
                case {"type": "refused", "message": str(text)}:
                    self._refusal = text
                case _:
                    self._heard(message)
            if self.serving:
                late_at = math.inf
            if self.proven.done():  # else it is the first start: building an engine takes minutes
                silent_at = time.monotonic() + self._silence_s

    @property
    def _silence_s(self) -> float:
        """How long it may say nothing."""
        silence_s = self._stall_s + 2 * BEAT_S
        return silence_s if self.serving else max(silence_s, _OPENING_SILENCE_S)

    def _killed(self, why: str) -> str:
        self.kill()
        return f"was killed: {why}"

    def _heard(self, message: Message) -> None:
        self._on_message(self, message)
        if message.get("type") == "serving":
            if not self.proven.done():
                self.proven.set_result(None)
            self._say("serving")

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        """Its exit status. A process that has closed its line has nothing more to do."""
        try:
            async with asyncio.timeout(_END_S):
                return await process.wait()
        except TimeoutError:
            process.kill()
            return await process.wait()

    def _say(self, state: str) -> None:
        self.state = state
        self._on_change()


def _told(status: int) -> str:
    return f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
