"""`python -m service.worker NAME FD`: one of several HTTP processes, started by the supervisor.

It answers on the sockets that all of them share. Which bundle to serve and where its devices are it learns from the
supervisor; while it knows of none, or none is ready, it refuses work with 503.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from bundle.errors import MaeveError
from bundle.manifest import Manifest
from bundle.store import Bundle
from runtime.cores import usable_cores
from service.app import Service, make_app
from service.engine import Engine
from service.ipc.child import Start, beat, begin, next_message
from service.ipc.devices import Devices
from service.ipc.framing import Control, Message
from service.metrics import Metrics
from service.opening import load
from service.reload import settle_memory
from service.search import Search
from service.server import make_server
from service.settings import Settings, SettingsError

log = logging.getLogger("service.worker")

_MEET_S = 2.0  # for devices that serve already, before requests are taken that the other workers could have answered


def main(argv: Sequence[str] | None = None) -> int:
    start = begin(sys.argv[1:] if argv is None else argv)
    sockets = [socket.socket(fileno=fd) for fd in start.message["sockets"]]
    worker = Worker(start)
    make_server(worker.app, start.settings).run(sockets=sockets)
    return 0


class Worker:
    """The app, and what the supervisor says to it."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._share = share(start.settings)
        self._metrics = Metrics(start.name)
        self._connecting: asyncio.Task[None] | None = None
        self._generation = 0  # the newest that was told
        self.app = make_app(start.settings, self._metrics, self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Service) -> AsyncIterator[None]:
        control = await Control.over(self._start.line)
        serve = self._start.message["serve"]
        if serve is None:
            await self._prove_search(control)
        else:
            await self._serve(control, serve)
            await asyncio.wait([task for task in (self._connecting,) if task], timeout=_MEET_S)
        tasks = [asyncio.create_task(beat(control, self._stalled_s)), asyncio.create_task(self._obey(control))]
        control.send({"type": "serving"})
        try:
            yield
        finally:
            if self._connecting is not None:
                tasks.append(self._connecting)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await app.end()
            await control.close()

    async def _prove_search(self, control: Control) -> None:
        """At the first start of all, where whoever started it should know; later ones serve without what cannot be
        searched by then.
        """
        search: Search | None = self.app.state.search
        if search is None:
            return
        try:
            await search.prove(load(self._start.settings).manifest)
        except (MaeveError, SettingsError) as e:
            control.send({"type": "refused", "message": str(e)})
            await control.close()
            os._exit(2)

    def _stalled_s(self) -> float:
        """Of its decoders: a device's process tells its own."""
        engine: Engine | None = self.app.state.engine
        return 0.0 if engine is None else engine.stalled_s

    async def _obey(self, control: Control) -> None:
        while (message := await next_message(control)) is not None:
            if message["type"] == "processes":
                self.app.state.processes = {"answered_by": self._start.name, **message["processes"]}
            elif message["type"] == "serve":
                await self._serve(control, message)
        log.error("the supervisor is gone")
        shutil.rmtree(self._start.message["folder"], ignore_errors=True)
        os._exit(1)  # at once: nobody listens to what else could be done

    async def _serve(self, control: Control, message: Message) -> None:
        """Begin to switch to a generation of devices. One that was told before and not met yet is given up."""
        if message["generation"] <= self._generation:
            return
        self._generation = message["generation"]
        if self._connecting is not None:
            self._connecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._connecting
        self._connecting = asyncio.create_task(self._switch(control, message))

    async def _switch(self, control: Control, message: Message) -> None:
        try:
            manifest = Manifest.model_validate(message["manifest"])
            labels = None if message["labels"] is None else tuple(message["labels"])
            devices = Devices(manifest, message["devices"], num_slots=self._share.max_queue)
            try:
                await devices.met()
                engine = Engine(Bundle(Path(message["bundle"]), manifest, labels), devices, self._share, self._metrics)
                await engine.warm_up()
            except BaseException:
                await devices.close()
                raise
        except Exception:
            log.exception("the bundle cannot be served here")
            os._exit(1)  # the supervisor tells the next one
        # From here on the switch ends by itself, also when the next one is asked for meanwhile
        adopting = asyncio.create_task(self.app.adopt(engine))
        await asyncio.shield(adopting)
        settle_memory()
        control.send({"type": "adopted", "generation": message["generation"]})


def share(settings: Settings) -> Settings:
    """What one of several workers may take of what the settings give to all of them.

    A request must fit into one worker, so all together may take on more than `max_queue` where workers are many.
    """
    threads = -(-(settings.decode_threads or usable_cores()) // settings.workers)
    return settings.model_copy(
        update={
            "cache_bytes": settings.cache_bytes // settings.workers,
            "max_queue": max(-(-settings.max_queue // settings.workers), settings.max_images),
            "decode_threads": threads,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
