"""`python -m service --bundle B`: serve until SIGTERM or Ctrl+C, then finish what is in flight. SIGHUP reads the bundle
anew; `--check` only tells what would be served.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from bundle.errors import MaeveError
from service.app import create_app
from service.logs import log_to_stderr
from service.opening import load, open_bundle
from service.reload import Reloader
from service.server import make_server
from service.settings import Settings, SettingsError, read_command

log = logging.getLogger("service")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a drain or a check, 2 for settings, bundles and runtimes that cannot be served."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    try:
        settings, only_check = read_command(sys.argv[1:] if argv is None else argv)
        log_to_stderr(settings)
        if only_check:
            return check(settings)
        # Not in the app's lifespan, of whose errors uvicorn prints a traceback
        opened = open_bundle(load(settings), settings)
        app = create_app(settings, bundle=opened.bundle, runtime=opened.runtime, proven=True)
    except (SettingsError, MaeveError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    log.info("serving %s", opened)
    make_server(app, settings, Reloader(app)).run()
    return 0


def check(settings: Settings) -> int:
    """Open what the settings name, on each device, and say on standard output what would be served."""
    bundle = load(settings)
    for device in settings.devices.split(",") if settings.devices else [settings.device]:
        opened = open_bundle(bundle, settings.model_copy(update={"device": device}))
        opened.runtime.close()
        print(f"ready to serve {opened}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
