"""What a block prints against what the text says it prints, in shape: machines differ in digits and in time."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""(?P<gap>\.\.\.|…)
      | (?P<number>[-+]?\d+\.\d*(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<word>\w+)
      | (?P<sign>\S)""",
    re.VERBOSE,
)
_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` has the shape of `shown`.

    `...` stands for anything. A number with a decimal point stands for any number: digits differ between machines and
    engines. All else, whole numbers too, must be there as it is shown; blanks and new lines do not count.
    """
    return re.fullmatch(_pattern(shown), printed.strip(), re.DOTALL) is not None


def _pattern(shown: str) -> str:
    parts = []
    for token in _TOKEN.finditer(shown):
        if token["gap"]:
            parts.append(".*?")
        elif token["number"]:
            parts.append(_NUMBER)
        else:
            parts.append(re.escape(token[0]))
    return r"\s*".join(parts)
