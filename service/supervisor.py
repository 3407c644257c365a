"""Several processes: one for each device, several for HTTP, and this one, which starts them and keeps them alive.

It answers no request and runs no model. The sockets for HTTP and those of the devices are its own, so that connections
wait in them while the process that accepts is started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundle.errors import MaeveError, RuntimeUnavailable
from bundle.store import Bundle, load_bundle
from service.ipc.child import dump_settings
from service.ipc.framing import Message
from service.ipc.keeper import Keeper
from service.listening import urls
from service.settings import Settings, SettingsError

log = logging.getLogger("service.supervisor")

_BACKLOG = 2048
_ANSWER_S = 5.0  # beyond the drain, for the last answers of workers
_DEVICE_END_S = 5.0
_LONGEST_PATH = 100  # bytes of a Unix socket's name, of which the kernel takes 107


def supervise(settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve on the sockets until SIGTERM or SIGINT, and drain. SIGHUP switches to what the bundle's folder holds then.

    BundleError, RuntimeUnavailable or SettingsError if it cannot be served to begin with.
    """
    folder = Path(tempfile.mkdtemp(prefix="maeve-"))
    try:
        if len(os.fsencode(folder)) > _LONGEST_PATH - len("/device-99-99"):
            raise SettingsError(f"TMPDIR: {folder} is too long a name for sockets; choose a shorter one")
        metrics = folder / "metrics"
        metrics.mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # before anybody imports prometheus_client
        asyncio.run(_Supervisor(settings, sockets, folder).run())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Generation:
    """A bundle and the processes that run it."""

    number: int
    bundle: Bundle
    devices: list[Keeper] = field(default_factory=list)
    listeners: list[socket.socket] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    infos: dict[str, dict[str, Any]] = field(default_factory=dict)

    def serve_message(self) -> Message:
        manifest = self.bundle.manifest
        return {
            "type": "serve",
            "generation": self.number,
            "bundle": str(self.bundle.path),
            "manifest": manifest.model_dump(mode="json"),
            "labels": self.bundle.labels,
            "devices": [
                {"name": device.name, "path": str(path), "info": self.infos[device.name]}
                for device, path in zip(self.devices, self.paths, strict=True)
            ],
        }

    async def proven(self) -> None:
        """Wait until every device serves. RuntimeUnavailable if one cannot, or if they do not compute alike."""
        await asyncio.gather(*(device.proven for device in self.devices))
        kinds = {name: (info["runtime"], info["precision"]) for name, info in self.infos.items()}
        if len(set(kinds.values())) > 1:
            told = ", ".join(f"{name} runs {runtime} in {precision}" for name, (runtime, precision) in kinds.items())
            raise RuntimeUnavailable(f"the devices differ: {told}; say --runtime and --precision")

    async def end(self) -> None:
        await asyncio.gather(*(device.stop(signal.SIGTERM, _DEVICE_END_S) for device in self.devices))
        for listener, path in zip(self.listeners, self.paths, strict=True):
            listener.close()
            path.unlink(missing_ok=True)


class _Supervisor:
    def __init__(self, settings: Settings, sockets: list[socket.socket], folder: Path) -> None:
        from service.metrics import Metrics  # not above: it asks the environment where its values are shared

        self._settings = settings
        self._sockets = sockets
        self._folder = folder
        self._metrics = Metrics("supervisor")
        self._workers: list[Keeper] = []
        self._adopted: dict[str, int] = {}  # by worker, the generation that it serves
        self._current: _Generation | None = None
        self._next: _Generation | None = None
        self._numbers = 0
        self._started = False  # once every worker has an engine: any of them may answer the first request
        self._changed = asyncio.Event()
        self._reload = asyncio.Event()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        serving = asyncio.create_task(self._serve())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            serving.cancel()
            stopping.cancel()
            await self._end()
            await asyncio.wait([serving, stopping])

    async def _serve(self) -> None:
        """For ever, or until it turns out that it cannot be done."""
        bundle = await asyncio.to_thread(load_bundle, self._settings.bundle_folder())
        for listener in self._sockets:
            listener.listen(_BACKLOG)
        log.info("listening on %s", urls(self._settings, self._sockets))
        first = self._next = self._generation(bundle)
        self._start_devices(first)
        self._workers = [self._worker(i) for i in range(self._settings.workers)]
        await asyncio.gather(first.proven(), *(worker.proven for worker in self._workers))
        self._switch_to(first)
        await self._all_adopted(first.number)
        self._started = True
        self._publish()
        self._log_generation(first)
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                self._metrics.reloaded("switched" if await self._reload_bundle() else "unchanged")
            except MaeveError as e:
                self._metrics.reloaded("refused")
                log.error("the bundle is not switched: %s", e)
            except Exception:
                self._metrics.reloaded("refused")
                log.exception("the bundle is not switched")

    async def _reload_bundle(self) -> bool:
        """Whether another bundle is served now. BundleError or RuntimeUnavailable if the new one cannot be served; then
        the old one goes on, as it does after any other error.
        """
        before = self._current
        assert before is not None
        bundle = await asyncio.to_thread(load_bundle, self._settings.bundle_folder())
        if bundle.manifest.digest == before.bundle.manifest.digest:
            log.info("the bundle is the one that is served already")
            return False
        after = self._next = self._generation(bundle)
        try:
            self._start_devices(after)
            await after.proven()
        except BaseException:
            self._next = None
            await after.end()
            raise
        self._switch_to(after)
        await self._all_adopted(after.number)
        await before.end()
        self._publish()
        self._log_generation(after)
        return True

    async def _all_adopted(self, generation: int) -> None:
        """Wait until no request is with the generation before, for as long as a request may take."""
        try:
            async with asyncio.timeout(self._settings.timeout_ms / 1000 + _ANSWER_S):
                while any(w.serving and self._adopted.get(w.name, 0) < generation for w in self._workers):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("not every worker has switched in time")

    def _switch_to(self, generation: _Generation) -> None:
        self._current, self._next = generation, None
        for worker in self._workers:
            worker.send(generation.serve_message())
        self._publish()

    async def _end(self) -> None:
        """Workers first, which answer what is in flight, then the devices, which they need for it."""
        generations = [each for each in (self._current, self._next) if each is not None]
        everybody = [*self._workers, *(device for each in generations for device in each.devices)]
        hurrying = asyncio.create_task(self._kill_in_a_hurry(everybody))
        grace_s = self._settings.drain_s + _ANSWER_S
        await asyncio.gather(*(worker.stop(signal.SIGTERM, grace_s) for worker in self._workers))
        await asyncio.gather(*(each.end() for each in generations))
        hurrying.cancel()
        for listener in self._sockets:
            listener.close()

    async def _kill_in_a_hurry(self, everybody: list[Keeper]) -> None:
        await self._hurry.wait()
        for each in everybody:
            each.kill()

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        else:
            log.info("stopping: the workers answer what they have begun")
        self._stop.set()

    def _generation(self, bundle: Bundle) -> _Generation:
        self._numbers += 1
        return _Generation(self._numbers, bundle)

    def _start_devices(self, generation: _Generation) -> None:
        """OSError where a socket cannot be made; what was begun before is the generation's to end."""
        names = self._settings.device_names
        for i, device in enumerate(names):
            path = self._folder / f"device-{generation.number}-{i}"
            listener = socket.socket(socket.AF_UNIX)
            generation.listeners.append(listener)
            generation.paths.append(path)
            listener.bind(str(path))
            listener.listen(_BACKLOG)
            name = f"device-{device}" + (f"-{i}" if names.count(device) > 1 else "")
            generation.devices.append(self._device(name, device, generation, listener))

    def _device(self, name: str, device: str, generation: _Generation, listener: socket.socket) -> Keeper:
        start = {
            "settings": dump_settings(self._settings), "device": device, "bundle": str(generation.bundle.path),
            "digest": generation.bundle.manifest.digest, "listener": listener.fileno(),
        }  # fmt: skip

        def heard(_: Keeper, message: Message) -> None:
            if message["type"] == "serving":
                generation.infos[name] = message["info"]

        return Keeper(
            name, "device", "service.ipc.device_main", lambda: start, [listener.fileno()],
            stall_s=self._settings.stall_s, on_message=heard, on_change=self._publish, on_death=self._died,
        )  # fmt: skip

    def _worker(self, number: int) -> Keeper:
        fds = [listener.fileno() for listener in self._sockets]
        start = {"settings": dump_settings(self._settings), "sockets": fds, "folder": str(self._folder)}

        def first() -> Message:
            return start | {"serve": None if self._current is None else self._current.serve_message()}

        def heard(worker: Keeper, message: Message) -> None:
            if message["type"] == "serving" and self._current is not None:
                worker.send(self._current.serve_message())
            elif message["type"] == "adopted":
                self._adopted[worker.name] = message["generation"]
                self._changed.set()

        return Keeper(
            f"http-{number}", "worker", "service.worker", first, fds,
            stall_s=self._settings.stall_s, on_message=heard, on_change=self._publish, on_death=self._died,
        )  # fmt: skip

    def _died(self, keeper: Keeper, pid: int) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, str(self._folder / "metrics"))  # type: ignore[no-untyped-call]
        self._adopted.pop(keeper.name, None)
        if not keeper.stopping:
            self._metrics.restarted(keeper.kind)

    def _publish(self) -> None:
        """Tell every worker which processes there are, for /info and /readyz."""
        self._changed.set()
        generations = [each for each in (self._current, self._next) if each is not None]
        devices = [device for each in generations for device in each.devices]
        told = {
            "supervisor": os.getpid(),
            "started": self._started,
            "workers": [_describe(worker) for worker in self._workers],
            "devices": [_describe(device) for device in devices],
        }
        for worker in self._workers:
            worker.send({"type": "processes", "processes": told})

    def _log_generation(self, generation: _Generation) -> None:
        manifest = generation.bundle.manifest
        for name, info in generation.infos.items():
            log.info("serving %s (%s) with %s on %s in %s, %d lanes, in the process %s, %d workers", manifest.name,
                     manifest.digest[:12], info["runtime"], info["device"], info["precision"], info["lanes"], name,
                     self._settings.workers)  # fmt: skip


def _describe(keeper: Keeper) -> dict[str, Any]:
    return {"name": keeper.name, "pid": keeper.pid, "state": keeper.state, "restarts": keeper.restarts}
