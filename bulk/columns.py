"""The columns that are carried beside an image: of which type, and that every value is of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from bulk.pieces import RESERVED, ColumnType, Row, Scalar
from bundle.errors import InvalidInput, SourceError

INT64 = range(-(2**63), 2**63)

Columns = dict[str, ColumnType]


def merge(parts: Iterable[tuple[str, Mapping[str, ColumnType]]]) -> Columns:
    """Of all sources together; (where they are from, columns) each. Integers beside decimals become decimals.

    Raises SourceError where a name has two types, or one that the output needs itself.
    """
    merged, origins = Columns(), dict[str, str]()
    for origin, columns in parts:
        for name, kind in columns.items():
            if name in RESERVED:
                raise SourceError(
                    f"{origin} has a column '{name}', which the output has too; rename it, or name with --columns "
                    "those to carry"
                )
            known = merged.setdefault(name, kind)
            if known != kind and {known, kind} != {"int64", "double"}:
                raise SourceError(
                    f"column '{name}' is {kind} in {origin} and {known} in {origins[name]}; embed them apart, or name "
                    "with --columns others to carry"
                )
            merged[name] = kind if known == kind else "double"
            origins.setdefault(name, origin)
    return merged


def goes_on(
    before: Mapping[str, ColumnType], now: Mapping[str, ColumnType], asked: Collection[str] | None, *, may_lack: bool
) -> bool:
    """Whether rows with the columns `now` may follow others that carry `before`, and no others are asked for.

    may_lack: whether a column that is carried may be nowhere, as labels are in a folder whose last sub-folder is gone.
    """
    if asked is not None and set(asked) != set(before):
        return False
    fitting: dict[ColumnType, tuple[ColumnType, ...]] = {"double": ("double", "int64")}
    return all(now[name] in fitting.get(kind, (kind,)) if name in now else may_lack for name, kind in before.items())


def conform(row: Row, columns: Mapping[str, ColumnType]) -> Row:
    """The row with exactly these columns, None where it lacks one; a value of another type costs it its image."""
    values, data = dict[str, Scalar](), row.data
    for name, kind in columns.items():
        value = row.columns.get(name)
        value = as_text(value) if isinstance(value, str) else value
        values[name] = fitting = None if value is None else _as_type(value, kind)
        if value is not None and fitting is None:
            data = InvalidInput(f"its {name} is {value!r}, and not of type {kind} as elsewhere")
    return Row(as_text(row.path), data, values)


def as_text(name: str) -> str:
    """A file's name whose bytes are no UTF-8 cannot be stored as it is: they become \\udcNN."""
    return name.encode(errors="backslashreplace").decode()


def type_of(value: object) -> ColumnType | None:
    """Of a value of JSON; None for lists and the like, and for null."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64"
    if isinstance(value, float):
        return "double"
    return "string" if isinstance(value, str) else None


def common(kinds: Collection[ColumnType]) -> ColumnType:
    """What values of several types become together."""
    distinct = set(kinds)
    if len(distinct) == 1:
        return distinct.pop()
    return "double" if distinct == {"int64", "double"} else "string"


def _as_type(value: Scalar, kind: ColumnType) -> Scalar:
    given = type_of(value)
    if given == "int64" and value not in INT64:
        return None
    if given == "int64" and kind == "double":
        return float(value or 0)
    return value if given == kind else None
