"""Names that stand for several files: `*`, `?`, `[...]`, `**`, and braces as in `{a,b}` and `{000..012}`."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterator, Sequence
from itertools import product

from bundle.errors import SourceError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


def has_magic(text: str) -> bool:
    """Whether only looking tells which files it stands for. Braces say it themselves."""
    return glob.has_magic(text)


def has_braces(text: str) -> bool:
    return _BRACES.search(text) is not None


def braces(pattern: str) -> Iterator[str]:
    """What braces stand for: `a-{00..12}.tar`, `{a,b}.tar`; the zeros of a range's start give its width.

    Raises SourceError for a range that counts down.
    """
    parts = _BRACES.split(pattern)  # text, content, text, content, ..., text
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    yield from ("".join(choice) for choice in product(*choices))


def split(pattern: str) -> tuple[str, list[str]]:
    """(the folder that all matches lie below, the parts of the pattern behind it)."""
    parts = pattern.split("/")
    first = next((i for i, part in enumerate(parts[:-1]) if has_magic(part) or has_braces(part)), len(parts) - 1)
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else "."), parts[first:]


class Part:
    """A part of a pattern between two slashes: `**`, or what a name fits. No star stands for a leading dot."""

    def __init__(self, text: str) -> None:
        self.is_every = text == "**"  # folders, any number of them
        self._choices = [(choice[:1] == ".", re.compile(fnmatch.translate(choice))) for choice in braces(text)]

    def fits(self, name: str) -> bool:
        hidden = name[:1] == "."
        return any((dot or not hidden) and regex.match(name) is not None for dot, regex in self._choices)


def fits(names: Sequence[str], parts: Sequence[Part]) -> bool:
    """Whether the parts of a file's path fit those of a pattern."""
    if not parts:
        return not names
    part, rest = parts[0], parts[1:]
    if not part.is_every:
        return bool(names) and part.fits(names[0]) and fits(names[1:], rest)
    shown = next((i for i, name in enumerate(names) if name[:1] == "."), len(names))  # before the first hidden one
    if not rest:
        return shown == len(names)
    return any(fits(names[i:], rest) for i in range(min(shown + 1, len(names))))


def _choices(content: str) -> list[str]:
    if (match := _RANGE.match(content)) is None:
        return content.split(",")
    first, last = match.groups()
    if int(last) < int(first):
        raise SourceError(f"the range {{{content}}} is empty; write the smaller number first")
    width = len(first) if first.startswith("0") else 0
    return [str(i).zfill(width) for i in range(int(first), int(last) + 1)]
