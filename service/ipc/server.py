"""The device's end: what the workers submit, all into one device."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

from bundle.errors import InferenceError, MaeveError
from bundle.manifest import Manifest
from service.batcher import Done
from service.device import Computed, Device
from service.ipc.arena import Arena, Layout
from service.ipc.framing import ProtocolError, frame
from service.ipc.link import Link
from service.ipc.records import SIZE, Attach, Cancel, Ending, Reply, Submit, error_code, unpack_attach, unpack_order
from service.programs import Item, Program

log = logging.getLogger(__name__)


class DeviceServer:
    """Accepts workers on `listener` and computes for them on `device`, which stays the caller's to close.

    Make it inside the event loop.
    """

    def __init__(self, listener: socket.socket, device: Device, manifest: Manifest) -> None:
        self.device = device
        self.manifest = manifest
        self.layout = Layout.of(manifest)
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._guests: set[_Guest] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        listener.settimeout(0)
        self._loop.add_reader(listener.fileno(), self._accept)

    @property
    def lingering(self) -> int:
        """Cancelled images that are not let go of yet."""
        return sum(guest.lingering for guest in self._guests)

    def hello(self) -> bytes:
        return frame({"digest": self.manifest.digest, "info": asdict(self.device.infos[0])})

    def close(self) -> None:
        """Take no more workers, and leave those there are."""
        self._loop.remove_reader(self._listener.fileno())
        for guest in list(self._guests):
            guest.link.abort()

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            connection, _ = self._listener.accept()
            connection.settimeout(0)
            self._loop.add_reader(connection.fileno(), self._attach, connection)

    def _attach(self, connection: socket.socket) -> None:
        """A worker's first record, and the memory that it shares."""
        self._loop.remove_reader(connection.fileno())
        fds: list[int] = []
        try:
            record, fds, _, _ = socket.recv_fds(connection, SIZE, 1)
            arena = self._arena(unpack_attach(record), fds)
        except (OSError, ProtocolError) as e:
            log.error("a worker was turned away: %s", e)
            connection.close()
            return
        finally:
            for fd in fds:
                os.close(fd)
        task = self._loop.create_task(self._welcome(connection, arena))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _arena(self, attach: Attach, fds: list[int]) -> Arena:
        if len(fds) != 1 or attach.slot_bytes != self.layout.slot_bytes:
            raise ProtocolError(f"{len(fds)} descriptors, slots of {attach.slot_bytes} bytes: another bundle's worker")
        return Arena(fds[0], self.layout, attach.num_slots)

    async def _welcome(self, connection: socket.socket, arena: Arena) -> None:
        guest = _Guest(self, arena, self._guests.discard)
        self._guests.add(guest)
        await self._loop.connect_accepted_socket(lambda: guest.link, connection)
        guest.link.send(self.hello())


@dataclass(eq=False)
class _Job:
    id: int
    future: asyncio.Future[Done[Computed]]
    item: Item | None  # None once it was cancelled
    num_values: int  # that its result must have
    watch: weakref.ref[Item] | None = None  # then, tells when the device has let go of it


class _Guest:
    """One worker. When it leaves, so does its work."""

    def __init__(self, server: DeviceServer, arena: Arena, on_end: Callable[[_Guest], None]) -> None:
        self.link = Link("a worker", self._order, self._end)
        self._server = server
        self._arena = arena
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, _Job] = {}  # by slot
        self._left = False

    @property
    def lingering(self) -> int:
        return sum(job.item is None for job in self._jobs.values())

    def _order(self, record: bytes) -> None:
        order = unpack_order(record)
        if isinstance(order, Submit):
            self._submit(order)
        else:
            self._cancel(order)

    def _submit(self, order: Submit) -> None:
        program, slot = order.program, order.slot
        if slot >= self._arena.num_slots or slot in self._jobs:
            raise ProtocolError(f"job {order.job} in slot {slot} cannot be")
        if not _is_of(program, self._server.manifest):
            self._failed(slot, order.job, InferenceError(f"the bundle has no program {program}"))
            return
        restores = program.operation == "reconstruct"
        item = Item(
            self._arena.pixels(slot), self._arena.ids_keep(slot, program.num_keep),
            self._arena.ids_restore(slot) if restores else None,
        )  # fmt: skip
        try:
            future = self._server.device.submit(program, item, deadline=order.deadline)
        except MaeveError as e:
            self._failed(slot, order.job, e)
            return
        job = self._jobs[slot] = _Job(order.job, future, item, program.num_values(self._server.manifest))
        future.add_done_callback(partial(self._finished, slot, job))

    def _cancel(self, order: Cancel) -> None:
        job = self._jobs.get(order.slot)
        if job is not None and job.id == order.job:  # else its answer is under way
            job.future.cancel()

    def _finished(self, slot: int, job: _Job, future: asyncio.Future[Done[Computed]]) -> None:
        if future.cancelled():
            self._watch(slot, job)
            return
        error = future.exception()
        if self._left:
            return
        del self._jobs[slot]
        if isinstance(error, Exception):
            self._failed(slot, job.id, error)
            return
        done = future.result()
        value = done.value.value
        if value.size != job.num_values:
            self._failed(slot, job.id, InferenceError(f"{value.size} values in the place of {job.num_values}"))
            return
        self._arena.values(slot, value.size)[:] = value
        self._reply("done", slot, job.id, length=value.size, infer_s=done.infer_s, decode_s=done.value.decode_s)

    def _failed(self, slot: int, job: int, error: Exception) -> None:
        if not isinstance(error, MaeveError):  # nobody else will see where it came from
            log.error("a model call failed", exc_info=error)
        text = str(error) if isinstance(error, MaeveError) else repr(error)
        error.__traceback__ = None  # its frames hold the whole batch, and so do the slots of those that were cancelled
        length = self._arena.write_text(slot, text)
        self._reply("failed", slot, job, error=error_code(error), length=length)

    def _watch(self, slot: int, job: _Job) -> None:
        """A lane may be reading the slot, so it is free when nothing refers to the item any more."""
        assert job.item is not None
        job.watch = weakref.ref(job.item, lambda _: self._forgotten(slot, job))
        job.item = None

    def _forgotten(self, slot: int, job: _Job) -> None:
        """On whichever thread let go last."""
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._dropped, slot, job)

    def _dropped(self, slot: int, job: _Job) -> None:
        if self._jobs.get(slot) is job:
            del self._jobs[slot]
            self._reply("dropped", slot, job.id)

    def _reply(
        self, ending: Ending, slot: int, job: int, *, error: int = 0, length: int = 0, infer_s: float = 0.0,
        decode_s: float = 0.0,
    ) -> None:  # fmt: skip
        cap = self._server.device.infos[0].max_batch
        self.link.send(Reply(ending, slot, job, error, length, cap, infer_s, decode_s).pack())

    def _end(self) -> None:
        self._left = True
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.future.cancel()
        self._on_end(self)


def _is_of(program: Program, manifest: Manifest) -> bool:
    """Whether the bundle can run it."""
    has = {"embed": True, "classify": manifest.can_classify, "reconstruct": manifest.can_reconstruct}
    fits = 0 < program.num_keep <= manifest.model.num_patches
    return fits and has[program.operation] and bool(program.poolings) == (program.operation == "embed")
