"""What MAEVE_CORS_ORIGINS may name; without the web's packages, which the settings do without."""

from __future__ import annotations

import re

ANY = "*"
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")


def parse_origins(text: str) -> tuple[str, ...]:
    """Of MAEVE_CORS_ORIGINS: origins as browsers send them, or * alone. ValueError naming the one that is none."""
    origins = tuple(origin.strip() for origin in text.split(","))
    if origins == (ANY,):
        return origins
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin such as https://app.example.org, nor * alone")
    return origins
