"""Another bundle for a service that runs: SIGHUP reads the folder anew."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from bundle.errors import MaeveError
from bundle.store import Bundle
from service.app import Service
from service.metrics import Metrics
from service.offload import detach
from service.opening import Opened, load, open_bundle, start_engine
from service.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reloader:
    """Replaces the app's engine when asked to. The old one serves until the new one has been proven and warmed up, and
    goes on if that fails. Use it on the event loop's thread.

    `opener`: makes a bundle ready to serve, on another thread; raises what `open_bundle` raises.
    """

    def __init__(self, app: Service, opener: Callable[[Bundle, Settings], Opened] = open_bundle) -> None:
        self._app = app
        self._settings: Settings = app.state.settings
        self._metrics: Metrics = app.state.metrics
        self._open = opener
        self._asked = False
        self._task: asyncio.Task[None] | None = None
        self._work: Future[Any] | None = None  # the newest on another thread

    @property
    def busy(self) -> bool:
        """Whether something is being reloaded, if only by a thread that nobody waits for any more."""
        return any(each is not None and not each.done() for each in (self._task, self._work))

    def request(self) -> None:
        """Reload soon. All requests during a reload are one more after it: the folder may have changed since."""
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._reload_while_asked())

    async def _reload_while_asked(self) -> None:
        while self._asked and not self._app.state.gate.draining:
            self._asked = False
            try:
                switched = await self._reload()
            except MaeveError as e:
                log.error("not reloaded, the bundle before goes on: %s", e)
                self._metrics.reloaded("refused")
            except Exception:
                log.exception("not reloaded, the bundle before goes on")
                self._metrics.reloaded("refused")
            else:
                self._metrics.reloaded("switched" if switched else "unchanged")

    async def _reload(self) -> bool:
        """Whether another bundle is served now."""
        loaded = await self._apart(lambda: load(self._settings))
        manifest, before = loaded.manifest, self._app.state.engine
        if before is not None and manifest.digest == before.manifest.digest:
            log.info("nothing to reload: %s still holds %s (%s)", self._settings.bundle, manifest.name,
                     manifest.digest[:12])  # fmt: skip
            return False
        opened = await self._apart(lambda: self._open(loaded, self._settings))
        engine = await start_engine(opened, self._settings, self._metrics)
        if self._app.state.gate.draining:
            await engine.close()
            return False
        log.info("serving %s from now on", opened)
        await self._app.adopt(engine)
        del before
        settle_memory()
        return True

    async def _apart(self, work: Callable[[], T]) -> T:
        """The result of `work`, done on another thread. An end of the process does not wait for it."""
        self._work = outcome = detach(work, "reload")
        return await asyncio.wrap_future(outcome)


def settle_memory() -> None:
    """What exists by now stays, so the garbage collector need not look at it again; what went before is let go of."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
