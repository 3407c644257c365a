"""Several devices as one: each image goes to the one that will be done with it first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from bundle.errors import Unavailable
from bundle.manifest import Manifest
from service.batcher import Done
from service.device import Computed, DeviceInfo
from service.ipc.arena import Arena, Layout, Slots, open_memory
from service.ipc.framing import Message
from service.ipc.remote import Memory, RemoteDevice, info_from
from service.programs import Item, Program


class Devices:
    """All devices of a service, over memory of this process's own, which `close` gives back.

    `sockets`: name, path of its socket and description of each, as the supervisor tells them. `num_slots`: images that
    may be on the way at once. OSError where the memory cannot be had.
    """

    decodes = False
    stalled_s = 0.0

    def __init__(self, manifest: Manifest, sockets: Sequence[Message], *, num_slots: int) -> None:
        layout = Layout.of(manifest)
        self._fd = open_memory(num_slots * layout.slot_bytes)
        memory = Memory(Arena(self._fd, layout, num_slots), self._fd, Slots(num_slots))
        self.members = [
            RemoteDevice(
                each["name"], Path(each["path"]), memory, info=info_from(each["info"]), manifest=manifest
            )
            for each in sockets
        ]  # fmt: skip

    @property
    def infos(self) -> tuple[DeviceInfo, ...]:
        return tuple(info for member in self.members for info in member.infos)

    @property
    def ready(self) -> bool:
        return any(member.ready for member in self.members)

    @property
    def held(self) -> int:
        return sum(member.held for member in self.members)

    async def met(self) -> None:
        """Wait until one of them is ready."""
        waits = [asyncio.ensure_future(member.connected.wait()) for member in self.members]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def submit(self, program: Program, item: Item, *, deadline: float) -> asyncio.Future[Done[Computed]]:
        ready = [member for member in self.members if member.ready]
        if not ready:
            raise Unavailable("no device is ready")
        return soonest(ready).submit(program, item, deadline=deadline)

    async def close(self) -> None:
        if self._fd >= 0:
            await asyncio.gather(*(member.close() for member in self.members))
            os.close(self._fd)
            self._fd = -1


def soonest(members: Sequence[RemoteDevice]) -> RemoteDevice:
    """The one that would be done first with one image more, by its own pace; the pace of one that has none yet is taken
    to be the best of the others'.
    """
    gaps = [member.pace.gap_s for member in members]
    best = min((gap for gap in gaps if gap is not None), default=1.0)
    waits = [(member.pending + 1) * (best if gap is None else gap) for member, gap in zip(members, gaps, strict=True)]
    return members[waits.index(min(waits))]
