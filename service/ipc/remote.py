"""A device in a process of its own, as a worker sees it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bundle.errors import Unavailable
from bundle.manifest import Manifest
from service.batcher import Done
from service.device import Computed, DeviceInfo
from service.ipc.arena import Arena, Slots
from service.ipc.framing import Message, ProtocolError
from service.ipc.link import Link
from service.ipc.records import Attach, Cancel, Reply, Submit, error_from, unpack_reply
from service.pace import Pace
from service.programs import Item, Program

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0  # between attempts to connect that came to nothing


@dataclass(eq=False)
class _Job:
    id: int
    future: asyncio.Future[Done[Computed]]
    submitted: float
    num_values: int  # that its result must have
    cancelled: bool = False


@dataclass(frozen=True)
class Memory:
    """A worker's arena, its descriptor to be handed to devices, and which of its slots are free."""

    arena: Arena
    fd: int
    slots: Slots


class RemoteDevice:
    """Keeps a connection to the socket at `path`, on which one device process after the other listens.

    While there is none, `ready` is False and a submission is Unavailable; what was in flight when a connection ended
    fails with Unavailable. `name`: for messages. `info` and `digest`: what the device must say of itself, save for
    `max_batch`. Make it inside the event loop. Images come decoded: they go into the slots of `memory`.
    """

    decodes = False
    stalled_s = 0.0  # the supervisor's business: it ends the process

    def __init__(self, name: str, path: Path, memory: Memory, *, info: DeviceInfo, manifest: Manifest) -> None:
        self.name = name
        self.held = 0
        self.pace = Pace()
        self._path = path
        self._memory = memory
        self._info = info
        self._manifest = manifest
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None  # once the device has said hello
        self._jobs: dict[int, _Job] = {}  # by slot
        self._next_job = 0
        self.connected = asyncio.Event()
        self._connecting = asyncio.create_task(self._stay_connected())

    @property
    def infos(self) -> tuple[DeviceInfo, ...]:
        return (self._info,)

    @property
    def ready(self) -> bool:
        return self._link is not None

    @property
    def pending(self) -> int:
        """Jobs at the device, cancelled ones too."""
        return len(self._jobs)

    def submit(self, program: Program, item: Item, *, deadline: float) -> asyncio.Future[Done[Computed]]:
        if self._link is None:
            raise Unavailable(f"the device {self.name} is being started")
        arena, slot = self._memory.arena, self._memory.slots.take()
        np.copyto(arena.pixels(slot), item.pixels)
        np.copyto(arena.ids_keep(slot, program.num_keep), item.ids_keep)
        if item.ids_restore is not None:
            np.copyto(arena.ids_restore(slot), item.ids_restore)
        if not self._jobs:
            self.pace.begin()
        self._next_job += 1
        num_values = program.num_values(self._manifest)
        job = self._jobs[slot] = _Job(self._next_job, self._loop.create_future(), time.perf_counter(), num_values)
        job.future.add_done_callback(partial(self._settled, slot, job))
        self._link.send(Submit(slot, job.id, program, deadline).pack())
        return job.future

    async def close(self) -> None:
        self._connecting.cancel()
        await asyncio.wait([self._connecting])

    async def _stay_connected(self) -> None:
        """The socket stays when the process behind it goes, so waiting for the next one is waiting for its hello."""
        pause_s = _FIRST_PAUSE_S
        while True:
            greeted = False
            try:
                greeted = await self._one_connection()
            except OSError as e:
                log.warning("cannot reach the device %s: %s", self.name, e)
            pause_s = _FIRST_PAUSE_S if greeted else min(2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(0 if greeted else pause_s)

    async def _one_connection(self) -> bool:
        """Hold a connection until it ends; whether the device said hello in it. OSError where there is none."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0)
            await self._loop.sock_connect(connection, str(self._path))
            attach = Attach(self._memory.arena.num_slots, self._memory.arena.layout.slot_bytes)
            socket.send_fds(connection, [attach.pack()], [self._memory.fd])
            ended = asyncio.Event()
            link = Link(self.name, self._reply, ended.set, on_hello=lambda hello: self._met(link, hello))
            own = connection.dup()  # the transport closes it
        await self._loop.create_unix_connection(lambda: link, sock=own)
        try:
            await ended.wait()
            return self._link is link
        finally:
            link.abort()
            self._lost()

    def _met(self, link: Link, hello: Message) -> None:
        """ProtocolError if it is not the device that was promised."""
        try:
            info, digest = info_from(hello["info"]), hello["digest"]
        except (KeyError, TypeError) as e:
            raise ProtocolError(f"its hello lacks {e}") from e
        mine = self._info
        if (digest, info.runtime, info.precision) != (self._manifest.digest, mine.runtime, mine.precision):
            raise ProtocolError(
                f"it runs {digest[:12]} with {info.runtime} in {info.precision}, which is not served here"
            )
        self._info = info
        self._link = link
        self.connected.set()

    def _reply(self, record: bytes) -> None:
        reply = unpack_reply(record)
        job = self._jobs.get(reply.slot)
        if job is None or job.id != reply.job:
            raise ProtocolError(f"it answered job {reply.job} in slot {reply.slot}, of which nobody knows")
        outcome = self._outcome(reply, job)
        self._let_go(reply.slot, job)
        if reply.ending == "done":
            self.pace.finished(more=bool(self._jobs))
            if reply.cap != self._info.max_batch:
                self._info = replace(self._info, max_batch=reply.cap)
        if job.future.done():  # cancelled meanwhile
            return
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)

    def _outcome(self, reply: Reply, job: _Job) -> Done[Computed] | Exception:
        arena = self._memory.arena
        if reply.ending == "done" and reply.length != job.num_values:
            raise ProtocolError(f"a result of {reply.length} values in the place of {job.num_values}")
        if reply.length > 4 * arena.layout.max_values:
            raise ProtocolError(f"a text of {reply.length} bytes")
        if reply.ending == "dropped":
            return Unavailable(f"the device {self.name} dropped the image")
        if reply.ending == "failed":
            return error_from(reply.error, arena.read_text(reply.slot, reply.length))
        value = arena.values(reply.slot, reply.length).copy()
        value.setflags(write=False)
        # all but the call itself is waiting, the way between the processes included
        queue_s = max(0.0, time.perf_counter() - job.submitted - reply.infer_s)
        return Done(Computed(value, reply.decode_s), queue_s, reply.infer_s)

    def _settled(self, slot: int, job: _Job, future: asyncio.Future[Any]) -> None:
        """Where the caller cancelled: the slot stays the device's until it answers."""
        if future.cancelled() and self._jobs.get(slot) is job and self._link is not None:
            job.cancelled = True
            self.held += 1
            self._link.send(Cancel(slot, job.id).pack())

    def _let_go(self, slot: int, job: _Job) -> None:
        del self._jobs[slot]
        self._memory.slots.give(slot)
        if job.cancelled:
            self.held -= 1

    def _lost(self) -> None:
        """Nobody writes into the slots any more: the process is gone, or has given up this connection."""
        self._link = None
        self.connected.clear()
        for slot, job in list(self._jobs.items()):
            self._let_go(slot, job)
            if not job.future.done():
                job.future.set_exception(Unavailable(f"the device {self.name} was lost while it worked on this"))


def info_from(fields: Message) -> DeviceInfo:
    """What dataclasses.asdict made of one, after a way through JSON. TypeError if it is none."""
    return DeviceInfo(**fields)
