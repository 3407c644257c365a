"""The HTTP server around the app: uvicorn, and an end that finishes what is in flight."""

from __future__ import annotations

import gc
import logging
import socket
import time
from types import FrameType

import uvicorn

from service.app import Service
from service.gate import Gate
from service.settings import Settings

log = logging.getLogger(__name__)

_ABORT_GRACE_S = 2  # for the answers of requests that were cut off to reach their clients


class DrainingServer(uvicorn.Server):
    """On the first signal the listening socket stays open, so that /readyz can say why nothing is taken any more; it
    closes when the requests in flight are done or `drain_s` is over. A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate, drain_s: float) -> None:
        super().__init__(config)
        self._gate = gate
        self._drain_s = drain_s
        self._drain_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn's signal handler. The signal is not raised again: a finished drain is a success."""
        del sig, frame
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self._gate.drain()
        self._drain_until = time.monotonic() + self._drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once. What exists by then stays, so the garbage collector need not look at it again."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; True ends the server."""
        if self._drain_until is not None:
            late = time.monotonic() >= self._drain_until
            if late and self._gate.in_flight:
                log.warning("%d requests in flight were cut off", self._gate.in_flight)
                self._gate.abort()
            self.should_exit = self.should_exit or late or not self._gate.in_flight
        return await super().on_tick(counter)


def make_server(app: Service, settings: Settings) -> DrainingServer:
    """To be run with sockets of `service.listening.bind`."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=settings.access_log,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_ABORT_GRACE_S,
        server_header=False,
    )
    return DrainingServer(config, app.state.gate, settings.drain_s)
