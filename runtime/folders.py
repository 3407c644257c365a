"""Where engines that take long to build are kept from one start to the next."""

from __future__ import annotations

import os
from pathlib import Path

from bundle.errors import RuntimeUnavailable


def engine_root(chosen: Path | None = None) -> Path:
    """`chosen`, or else maeve/engines in the user's cache folder, as the XDG Base Directory Specification places that.

    RuntimeUnavailable for a user who has no home.
    """
    if chosen is not None:
        return chosen
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # to be ignored, says the specification
        try:
            cache = Path.home() / ".cache"
        except RuntimeError as e:  # neither HOME nor an entry in the system's list of users
            raise RuntimeUnavailable(
                "this user has no home folder to keep engines in; "
                "set MAEVE_ENGINE_CACHE, or --engine-cache where engines are built ahead"
            ) from e
    return cache / "maeve" / "engines"
