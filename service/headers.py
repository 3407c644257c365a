"""A request's headers, in a table that the gate makes once: a list of them is slow to look through, again and again."""

from __future__ import annotations

from starlette.types import Scope

KEY = "maeve.headers"  # of the table in the scope


def make_table(scope: Scope) -> dict[bytes, bytes]:
    """Name, in small letters as ASGI has them -> value; also in the scope. Values of a repeated header are joined, as
    one list (RFC 9110, section 5.3).
    """
    headers = scope["headers"]
    table: dict[bytes, bytes] = dict(headers)
    if len(table) < len(headers):
        table.clear()
        for name, value in headers:
            table[name] = table[name] + b", " + value if name in table else value
    scope[KEY] = table
    return table


def knows_etag(scope: Scope, etag: str) -> bool:
    """Whether the client has what this etag names (RFC 9110, section 13.1.2)."""
    sent = (header(scope, b"if-none-match") or "").split(",")
    return etag in (each.strip().removeprefix("W/") for each in sent)


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the header of that name, or the joined values; None if there is none."""
    value: bytes | None = scope[KEY].get(name)
    return None if value is None else value.decode("latin-1")
