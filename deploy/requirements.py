"""Print what pyproject.toml asks for, a requirement a line: what the service needs, or some extras alone.

python requirements.py                 the base
python requirements.py train export    the extras [train] and [export]
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def requirements(pyproject: Path, extras: Sequence[str] = ()) -> list[str]:
    """The dependencies, or those of the extras, each once. KeyError if there is no such extra."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    if not extras:
        return list(project["dependencies"])
    return list(dict.fromkeys(line for extra in extras for line in project["optional-dependencies"][extra]))


if __name__ == "__main__":
    lines = requirements(Path("pyproject.toml"), sys.argv[1:])
    sys.stdout.write("".join(f"{line}\n" for line in lines))
