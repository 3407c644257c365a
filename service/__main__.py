"""`python -m service --bundle B`: serve until SIGTERM or Ctrl+C, then finish what is in flight."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence

from bundle.errors import MaeveError
from bundle.store import load_bundle
from runtime.selfcheck import prove
from service.listening import bind, urls
from service.logs import log_to_stderr
from service.settings import Settings, SettingsError, read_settings

log = logging.getLogger("service")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a drain, 2 for settings, bundles and runtimes that cannot be served."""
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv)
        sockets = bind(settings)
        if settings.has_device_processes:
            from service.supervisor import supervise

            log_to_stderr(settings, "supervisor")
            supervise(settings, sockets)
        else:
            log_to_stderr(settings)
            _serve(settings, sockets)
    except (SettingsError, MaeveError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def _serve(settings: Settings, sockets: list[socket.socket]) -> None:
    """In this process alone."""
    from service.app import create_app  # not above: the supervisor of several processes does without the web
    from service.server import make_server

    bundle = load_bundle(settings.bundle)
    runtime = settings.open_runtime(bundle)
    prove(bundle, runtime)  # here and not in the app's lifespan, of whose errors uvicorn prints a traceback
    log.info("serving %s (%s) with %s on %s in %s, %d lanes%s", bundle.manifest.name, bundle.manifest.digest[:12],
             runtime.name, runtime.device, runtime.precision, runtime.lanes,
             "".join(f", {name} {value}" for name, value in runtime.details.items()))  # fmt: skip
    app = create_app(settings, bundle=bundle, runtime=runtime, proven=True)
    log.info("listening on %s", urls(settings, sockets))
    make_server(app, settings).run(sockets=sockets)


if __name__ == "__main__":
    sys.exit(main())
