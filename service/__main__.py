"""`python -m service --bundle B`: serve until SIGTERM or Ctrl+C, then finish what is in flight."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType

import uvicorn

from bundle.errors import MaeveError
from bundle.store import load_bundle
from runtime.selfcheck import prove
from service.app import create_app
from service.gate import Gate
from service.protocol import server_options
from service.settings import Settings, SettingsError, read_settings

log = logging.getLogger("service")

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


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a drain, 2 for settings, bundles and runtimes that cannot be served."""
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv)
        _log_to_stderr(settings)
        bundle = load_bundle(settings.bundle)
        runtime = settings.open_runtime(bundle)
        prove(bundle, runtime)  # here and not in the app's lifespan, of whose errors uvicorn prints a traceback
    except (SettingsError, MaeveError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    log.info("serving %s (%s) with %s on %s in %s, %d lanes%s", bundle.manifest.name, bundle.manifest.digest[:12],
             runtime.name, runtime.device, runtime.precision, runtime.lanes,
             "".join(f", {name} {value}" for name, value in runtime.details.items()))  # fmt: skip
    app = create_app(settings, bundle=bundle, runtime=runtime, proven=True)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=settings.access_log,
        timeout_graceful_shutdown=_ABORT_GRACE_S,
        **server_options(settings),
    )
    DrainingServer(config, app.state.gate, settings.drain_s).run()
    return 0


def _log_to_stderr(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


if __name__ == "__main__":
    sys.exit(main())
