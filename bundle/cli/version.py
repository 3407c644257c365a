"""Which Maeve this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def maeve_version() -> str:
    """The installed version; "0+source" when run from a checkout that was never installed."""
    try:
        return version("maeve")
    except PackageNotFoundError:
        return "0+source"
