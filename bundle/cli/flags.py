"""From the fields of a configuration to flags, and from the texts of a command line to a configuration.

A field's type says what its flag takes, its default what holds without it, and the string below it what it means. What
is understood: str, int, float, bool, Path, Literal, tuples of these or of such tuples, each of them or None, and a
dataclass, whose flags carry the field's name: --triton.precision. `str | Path` is a path or a URL.
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bundle.errors import MaeveError

Config = TypeVar("Config")

_PLACE = str | Path  # a path or a URL, which is kept as it was written
_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", Path: "a path", _PLACE: "a path or a URL",
}  # fmt: skip
_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH", _PLACE: "PATH"}
_LONGEST_CHOICE = 28  # characters that the choices may take beside the flag; longer lists stand in its help


class UsageError(MaeveError):
    """The command line is wrong; the message names the flag and says what it may be."""


@dataclass(frozen=True)
class Positional:
    """Marks a field that is given by its place: `run: Annotated[Path, Positional("RUN")]`."""

    metavar: str


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One argument. name: where its texts end up; spelling: --name, or a word in capitals for one given by its place;
    takes: its type, bool for a switch; default: as --help shows it, None where its help says so; group: its heading.
    """

    name: str
    spelling: str
    takes: Any
    help: str
    default: str | None
    group: str = ""
    required: bool = False

    @property
    def is_positional(self) -> bool:
        return not self.spelling.startswith("-")

    @property
    def is_switch(self) -> bool:
        return self.takes is bool

    @property
    def num_texts(self) -> int | str:
        """As argparse's nargs; for a tuple of any length at least one."""
        parts = _flat(self.takes)
        return 1 if parts is None else len(parts) if ... not in parts else "+"

    @property
    def metavar(self) -> str:
        """What stands for its value in --help."""
        if get_origin(self.takes) is Literal:
            listed = "|".join(map(str, get_args(self.takes)))
            return listed if len(listed) <= _LONGEST_CHOICE else "NAME"
        parts = _flat(self.takes)
        return _METAVARS[self.takes] if parts is None else " ".join(_metavar(part) for part in parts)

    @property
    def choices(self) -> tuple[str, ...]:
        """Of one of several names."""
        return tuple(map(str, get_args(self.takes))) if get_origin(self.takes) is Literal else ()

    @property
    def wants(self) -> str:
        """In words."""
        if self.choices:
            return _either(self.choices)
        parts = _flat(self.takes)
        if parts is None:
            return _WORDS[self.takes]
        if ... in parts:
            return f"one or more values ({self.metavar})"
        return f"{len(parts)} values ({self.metavar})"


def flags_of(config: type[Any], *, prefix: str = "") -> list[Flag]:
    """A flag for every field; those of the class itself first, then those of the classes it takes others from."""
    assert is_dataclass(config)
    hints = get_type_hints(config, include_extras=True)
    found: list[Flag] = []
    for owner, field in _fields_by_owner(config):
        said = _docs(owner).get(field.name, "")  # type: ignore[arg-type]  # mypy looks for a hash of its instances
        hint = hints[field.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            found += flags_of(hint, prefix=f"{prefix}{field.name}.")
            continue
        group = "" if owner is config and not prefix else _first_line(owner)
        found.append(_flag(prefix + field.name, field, hint, said, group))
    return found


def build(config: type[Config], texts: Mapping[str, Sequence[str] | bool]) -> Config:
    """The configuration that `texts`, by the flags' names, ask for. UsageError for what it does not take."""
    flags = {flag.name: flag for flag in flags_of(config)}
    values = {name: given if isinstance(given, bool) else read(flags[name], given) for name, given in texts.items()}
    return _construct(config, values)


def read(flag: Flag, texts: Sequence[str]) -> Any:
    """The value of a flag from its texts. UsageError that says what it takes."""
    parts = _flat(flag.takes)
    if parts is None:
        return _read_one(flag, flag.takes, texts[0])
    if ... not in parts:
        return tuple(_read_one(flag, part, text) for part, text in zip(parts, texts, strict=True))
    element = get_args(flag.takes)[0]
    inner = _flat(element)
    if inner is None:
        return tuple(_read_one(flag, element, text) for text in texts)
    if len(texts) % len(inner):
        raise UsageError(f"{flag.spelling} takes {flag.wants}, got {' '.join(texts)}")
    rows = (texts[i : i + len(inner)] for i in range(0, len(texts), len(inner)))
    return tuple(tuple(_read_one(flag, part, text) for part, text in zip(inner, row, strict=True)) for row in rows)


def closest(text: str, known: Sequence[str]) -> str | None:
    """The one that was probably meant."""
    return next(iter(get_close_matches(text, known, n=1, cutoff=0.6)), None)


def _construct(config: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    assert is_dataclass(config)
    hints = get_type_hints(config)
    own: dict[str, Any] = {}
    for field in fields(config):
        if is_dataclass(hints[field.name]):
            own[field.name] = _construct(hints[field.name], values, f"{prefix}{field.name}.")
        elif prefix + field.name in values:
            own[field.name] = values[prefix + field.name]
    try:
        return config(**own)
    except ValueError as e:
        raise UsageError(str(e)) from e


def _read_one(flag: Flag, kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        by_text = {str(choice): choice for choice in get_args(kind)}
        if text in by_text:
            return by_text[text]
        meant = closest(text, tuple(by_text))
        hint = "" if meant is None else f"; did you mean {meant}?"
        raise UsageError(f"{flag.spelling} must be {_either(tuple(by_text))}, got {text!r}{hint}")
    refusal = UsageError(f"{flag.spelling} takes {_WORDS[kind]}, got {text!r}")
    if kind in (Path, _PLACE) and not text:  # as of a variable that is not set; Path("") would be the working directory
        raise refusal
    try:
        value = text if kind == _PLACE else kind(text)
    except ValueError as e:
        raise refusal from e
    if isinstance(value, float) and not math.isfinite(value):
        raise refusal
    return value


def _flag(name: str, field: Field[Any], hint: Any, said: str, group: str) -> Flag:
    place = None
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        place = next((mark for mark in marks if isinstance(mark, Positional)), None)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    required = default is MISSING
    spelling = "--" + name.replace("_", "-") if place is None else place.metavar
    shown = None if required or "Default:" in said or default is None else _shown(default)
    return Flag(
        name=name, spelling=spelling, takes=_plain(hint), help=said, default=shown, group=group, required=required
    )  # fmt: skip


def _plain(hint: Any) -> Any:
    """Without None."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    kinds = tuple(part for part in get_args(hint) if part is not NoneType)
    return reduce(or_, kinds)


def _flat(kind: Any) -> tuple[Any, ...] | None:
    """The parts of a tuple's value, `...` last where they may repeat; None for what is no tuple."""
    if get_origin(kind) is not tuple:
        return None
    first, *rest = get_args(kind)
    if rest == [...]:
        return (*(_flat(first) or (first,)), ...)
    return (first, *rest)


def _metavar(part: Any) -> str:
    if part is ...:
        return "..."
    return "|".join(map(str, get_args(part))) if get_origin(part) is Literal else _METAVARS[part]


def _shown(default: Any) -> str:
    """As one would write it on the command line."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(_shown, default)) or "none"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _fields_by_owner(config: type[Any]) -> Iterator[tuple[type[Any], Field[Any]]]:
    """Every field with the class that describes it, the class's own first."""
    described = {owner: inspect.get_annotations(owner) for owner in config.__mro__}
    owners = {field: next(owner for owner in described if field.name in described[owner]) for field in fields(config)}
    for owner in described:
        yield from ((owner, field) for field in owners if owners[field] is owner)


@cache
def _docs(owner: type[Any]) -> dict[str, str]:
    """The string below each field, which Python itself does not keep."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match following:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[statement.target.id] = " ".join(text.split())
    return found


def _first_line(owner: type[Any]) -> str:
    said = " ".join((inspect.getdoc(owner) or owner.__name__).split("\n\n")[0].split()).rstrip(".")
    return said[0].lower() + said[1:]
