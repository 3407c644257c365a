"""`python -m service --bundle B`: serve until SIGTERM or Ctrl+C, then finish what is in flight. SIGHUP reads the bundle
anew; `--check` only tells what would be served.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings

log = logging.getLogger("service")


def main(argv: Sequence[str] | None = None) -> None:
    """Returns after a drain or a check; SystemExit with 2 for settings, bundles and runtimes that cannot be served."""
    from bundle.cli.ending import NOT_DONE, run
    from bundle.errors import MaeveError
    from service.settings import SettingsError

    run(lambda: _serve_or_check(argv), statuses={SettingsError: NOT_DONE, MaeveError: NOT_DONE})


def _serve_or_check(argv: Sequence[str] | None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    # Until a server listens for Ctrl+C it ends the process: as an exception it may be lost in the imports below.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from service.settings import read_command

    settings, only_check = read_command(argv)
    from service.listening import bind
    from service.logs import log_to_stderr
    from service.thumbnails import check_folder

    log_to_stderr(settings, "supervisor" if settings.has_device_processes and not only_check else None)
    check_folder(settings)
    if only_check:
        check(settings)
        return
    sockets = bind(settings)
    if settings.has_device_processes:
        from service.supervisor import supervise

        supervise(settings, sockets)
    else:
        serve(settings, sockets)


def serve(settings: Settings, sockets: list[socket.socket]) -> None:
    """In this process alone. BundleError, RuntimeUnavailable, SettingsError, Unavailable."""
    from service.app import create_app  # not above: the supervisor of several processes does without the web
    from service.listening import urls
    from service.opening import load, open_bundle
    from service.reload import Reloader
    from service.search import prove_search
    from service.server import make_server

    bundle = load(settings)
    prove_search(settings, bundle.manifest)  # not in the lifespan, of whose errors uvicorn prints a traceback
    opened = open_bundle(bundle, settings)
    app = create_app(settings, bundle=opened.bundle, runtime=opened.runtime, proven=True)
    log.info("serving %s on %s", opened, urls(settings, sockets))
    make_server(app, settings, Reloader(app)).run(sockets=sockets)


def check(settings: Settings) -> None:
    """Open what the settings name, on each device, and say on standard output what would be served. Raises as serve."""
    from service.opening import load, open_bundle
    from service.search import prove_search

    bundle = load(settings)
    index = prove_search(settings, bundle.manifest)
    for name in settings.device_names:
        opened = open_bundle(bundle, settings.on_device(name))
        opened.runtime.close()
        print(f"ready to serve {opened}")
    if index is not None:
        print(f"ready to search {index}")


if __name__ == "__main__":
    main()
