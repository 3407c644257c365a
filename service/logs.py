"""Where log records go, and what they look like there."""

from __future__ import annotations

import logging

from service.settings import Settings


def log_to_stderr(settings: Settings, process: str | None = None) -> None:
    """`process`: the name of one of several, which every line then carries."""
    named = "" if process is None else f"{process} "
    logging.basicConfig(
        level=settings.log_level.upper(), format=f"%(asctime)s %(levelname)s {named}%(name)s: %(message)s"
    )
