"""The server of one process: uvicorn, and what the signals mean."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import cast

import uvicorn

from service.app import Service
from service.gate import Gate
from service.protocol import BoundedProtocol, server_options
from service.reload import Reloader, settle_memory
from service.settings import Settings

log = logging.getLogger(__name__)

# How long a lane that comes back from the model may wait for a thread that holds the interpreter. Python's own 5 ms are
# a good part of a small network's call.
_SWITCH_S = 0.0005
_ABORT_GRACE_S = 2  # for the answers of requests that were cut off to reach their clients


class DrainingServer(uvicorn.Server):
    """SIGTERM and SIGINT drain, SIGHUP reloads the bundle.

    On the first signal to stop, the listening socket stays open, so that /readyz can say why nothing is taken any more,
    and idle connections are closed. It ends when the requests in flight are done, their clients have the answers and a
    reload is over, or after `drain_s`. A second signal ends it, and the process, at once.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate, drain_s: float, reloader: Reloader | None = None) -> None:
        super().__init__(config)
        self._gate = gate
        self._drain_s = drain_s
        self._drain_until: float | None = None
        self._told = False  # that it drains; a signal's handler must not log
        self._reloader = reloader

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn's signal handler. The signal is not raised again: a finished drain is a success."""
        del sig, frame
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self._gate.drain()
        self._drain_until = time.monotonic() + self._drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once."""
        await super().startup(sockets)
        settle_memory()
        sys.setswitchinterval(_SWITCH_S)
        if self._reloader is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloader.request)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; True ends the server."""
        if self._drain_until is not None:
            if not self._told:
                self._told = True
                log.info("stopping: %d requests are in flight, and have %g s", self._gate.in_flight, self._drain_s)
            self._close_idle_connections()
            late = time.monotonic() >= self._drain_until
            if late and self._gate.in_flight:
                log.warning("%d requests in flight were cut off", self._gate.in_flight)
                self._gate.abort()
            busy = self._gate.in_flight or self._num_unsent() or self._reloads()
            self.should_exit = self.should_exit or late or not busy
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once."""
        await super().shutdown(sockets)
        if self.force_exit or self._reloads():
            os._exit(0)  # not past a handler that works on, or a thread that may hang in a driver

    def _reloads(self) -> bool:
        return self._reloader is not None and self._reloader.busy

    def _num_unsent(self) -> int:
        """Connections whose clients still read. One that does not is closed by its protocol."""
        return sum(connection.unsent > 0 for connection in self._connections())

    def _connections(self) -> list[BoundedProtocol]:
        return cast("list[BoundedProtocol]", list(self.server_state.connections))

    def _close_idle_connections(self) -> None:
        """Those that were answered and wait for a next request. One that has not sent its first yet is told no."""
        for connection in self._connections():
            if connection.idle:
                connection.shutdown()


def make_server(app: Service, settings: Settings, reloader: Reloader | None = None) -> DrainingServer:
    """A server of this app, to be run with sockets of `service.listening.bind`; logs go where the process's logs go."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,  # the gate writes a line that knows more
        timeout_graceful_shutdown=_ABORT_GRACE_S,
        **server_options(settings),
    )
    return DrainingServer(config, app.state.gate, settings.drain_s, reloader)
