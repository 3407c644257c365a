"""A request's headers, in a table that the gate makes once: a list of them is slow to look through, again and again."""

from __future__ import annotations

from starlette.types import Scope

KEY = "maeve.headers"  # of the table in the scope


def make_table(scope: Scope) -> dict[bytes, bytes]:
    """Name, in small letters as ASGI has them -> value, the last one where a header is repeated; also in the scope."""
    table: dict[bytes, bytes] = dict(scope["headers"])
    scope[KEY] = table
    return table


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the header of that name; None if there is none."""
    value: bytes | None = scope[KEY].get(name)
    return None if value is None else value.decode("latin-1")
