"""Flags of a run as texts: NAME=VALUE, and the values of a sweep's axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def convert(config: type[Any], name: str, text: str) -> Any:
    """The value of one field of a dataclass from its text. Raises ValueError that says what the field takes."""
    from pydantic import TypeAdapter, ValidationError

    assert is_dataclass(config)
    hint = get_type_hints(config)[name]
    for given in (text, text.split(",")):  # a tuple is a list with commas
        try:
            return TypeAdapter(hint).validate_python(given)
        except ValidationError:
            continue
    said = str(hint).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
    raise ValueError(f"--{name.replace('_', '-')} takes {said}, got {text!r}")


def assignments(config: type[Any], flag: str, given: Sequence[str], reserved: set[str]) -> dict[str, Any]:
    """Fields of a run's configuration from NAME=VALUE texts; those in `reserved` are the experiment's own to set."""
    names = {f.name for f in fields(config)} - reserved
    values = {}
    for text in given:
        name, separator, value = text.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not separator or name not in names:
            raise ValueError(f"{flag} takes NAME=VALUE, a flag of the run that is not set elsewhere, got {text!r}")
        values[name] = convert(config, name, value)
    return values
