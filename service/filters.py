"""Conditions on the rows of an index, as text of a query -> an expression with typed values. No SQL is written here.

    label=cat,dog    price<=9.5    path!=a.jpg

A value that holds a comma has a backslash before it, and so has a backslash before a comma or another backslash.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, Literal

from service.errors import BadParameter

ColumnType = Literal["string", "int64", "double", "bool"]
Value = str | int | float | bool

MAX_FILTERS: Final = 16  # they nest in the expression, and whoever evaluates that recurses
MAX_VALUES: Final = 100  # of one filter

_OPERATORS: Final = ("!=", "<=", ">=", "=", "<", ">")  # the longer ones first
_OPERATOR: Final = re.compile("|".join(_OPERATORS))
_INT: Final = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_BOOLS: Final = {"true": True, "false": False}
_NEEDS: Final[dict[ColumnType, str]] = {
    "string": "text", "int64": "a whole number of 64 bits", "double": "a number", "bool": "true or false",
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """A row's value stands so to one of `values`; with != to none of them."""

    column: str
    type: ColumnType
    operator: str
    values: tuple[Value, ...]


def parse_filter(text: str, columns: Mapping[str, ColumnType]) -> Condition:
    """BadParameter for a column that there is not, and for an operator or a value that it does not take."""
    column, operator, rest = _split(text, columns)
    kind = columns[column]
    if kind == "bool" and operator not in ("=", "!="):
        raise _refused(f"{column} is true or false, which are not ordered: use = or !=")
    texts = _split_values(rest)
    if len(texts) > MAX_VALUES:
        raise _refused(f"{column} is compared with {len(texts)} values, {MAX_VALUES} at most")
    if len(texts) > 1 and operator not in ("=", "!="):
        raise _refused(f"{column}{operator} takes one value, got {len(texts)}; write a comma of a value as \\,")
    return Condition(column, kind, operator, tuple(_read(value, column, kind) for value in texts))


def expression(conditions: Sequence[Condition]) -> Any:
    """Of lancedb: all of them hold. None for none.

    A row without a value in the column, or with NaN, meets no condition on it, != neither.
    """
    return reduce(lambda all_, each: all_ & each, map(_compare, conditions)) if conditions else None


def _split(text: str, columns: Mapping[str, ColumnType]) -> tuple[str, str, str]:
    """Column, operator and the rest. The names are known, so they may hold anything, an operator too."""
    for name in sorted(columns, key=len, reverse=True):
        if text.startswith(name) and (found := _OPERATOR.match(text, len(name))):
            return name, found[0], text[found.end() :]
    first = _OPERATOR.search(text)
    if first is None:
        raise _refused(f"write it as COLUMN=VALUE, or with {', '.join(_OPERATORS)} in the place of =, got {text!r}")
    raise _refused(f"the index has no column {text[: first.start()]!r}; there are {', '.join(columns)}")


def _split_values(text: str) -> list[str]:
    """At every comma without a backslash before it. A backslash before anything else stands for itself."""
    parts = [""]
    for piece in re.findall(r"\\[\\,]|,|[^\\,]+|\\", text):
        if piece == ",":
            parts.append("")
        else:
            parts[-1] += piece[1:] if piece in ("\\\\", "\\,") else piece
    return parts


def _read(text: str, column: str, kind: ColumnType) -> Value:
    if kind == "string":
        return text
    if kind == "bool" and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    if kind == "int64" and _INT.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    if kind == "double" and text.isascii() and not math.isnan(number := _float(text)):
        return number
    raise _refused(f"{column} takes {_NEEDS[kind]}, got {text!r}")


def _float(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _compare(condition: Condition) -> Any:
    from lancedb.expr import col, lit

    column = col(condition.column)
    literals = [lit(value) for value in condition.values]
    first = literals[0]
    match condition.operator:
        case "=":
            met = column.isin(literals)
        case "!=":
            met = ~column.isin(literals)
        case "<":
            met = column < first
        case "<=":
            met = column <= first
        case ">":
            met = column > first
        case _:
            met = column >= first
    # Arrow orders NaN above infinity, and so would find it above everything
    return met & (column <= lit(math.inf)) if condition.type == "double" else met


def _refused(message: str) -> BadParameter:
    return BadParameter(f"filter: {message}", param="filter")
