"""A request's headers, one at a time: a table of all of them costs more than the two or three that are looked at."""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the first header of that name, in lower case as ASGI has them; None if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
