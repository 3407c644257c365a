"""Print what pyproject.toml asks for, a requirement a line: what the service needs, or one extra alone.

python requirements.py          the base
python requirements.py gpu      the extra [gpu]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extra: str | None = None) -> list[str]:
    """KeyError if there is no such extra."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found: list[str] = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return found


if __name__ == "__main__":
    lines = requirements(Path("pyproject.toml"), *sys.argv[1:2])
    sys.stdout.write("".join(f"{line}\n" for line in lines))
