"""Exit with 0 if the service in this container is ready for requests, else say why and exit with 1."""

from __future__ import annotations

import os
import sys
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  addresses to listen on, none to connect to
_TIMEOUT_S = 3


def why_not_ready(url: str) -> str | None:
    """None if `url` answers 200, else what happened."""
    opener = build_opener(ProxyHandler({}))  # a proxy in the environment is not for the loopback
    try:
        opener.open(url, timeout=_TIMEOUT_S).close()
    except HTTPError as e:
        return f"{url}: {e.code} {e.read(500).decode(errors='replace')}"
    except OSError as e:
        return f"{url}: {e}"
    return None


if __name__ == "__main__":
    host = os.environ.get("MAEVE_HOST", "127.0.0.1")
    port = os.environ.get("MAEVE_PORT", "8000")
    sys.exit(why_not_ready(f"http://{_WILDCARDS.get(host, host)}:{port}/readyz"))
