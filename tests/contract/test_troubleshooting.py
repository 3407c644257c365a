"""Every message that docs/troubleshooting.md says the software prints is one that the software has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
PACKAGES = ("bundle", "export", "mae", "runtime", "service", "training")
OTHER = ("Makefile",)  # what speaks to a user and is no Python
ANY = "\0"
LEAST = 8  # letters of a message; fewer would be found anywhere


def quoted() -> list[str]:
    """The first code span of each cell below the header "it says"."""
    messages, column = [], None
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if not cells:
            column = None
        elif "it says" in cells:
            column = cells.index("it says")
        elif column is not None and not cells[0].startswith("---"):
            span = re.match(r"`([^`]+)`", cells[column])
            assert span, line
            messages.append(span[1])
    return messages


def templates(package: str) -> Iterator[str]:
    """Every string of the package but docstrings; ANY stands for the values that are put into one."""
    for path in (ROOT / package).rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else ANY for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value


@pytest.fixture(scope="module")
def said() -> list[str]:
    texts = [template for package in PACKAGES for template in templates(package)]
    return texts + [(ROOT / name).read_text() for name in OTHER]


def test_the_page_quotes_messages() -> None:
    messages = quoted()
    assert len(messages) > 60
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("message", quoted())
def test_the_message_is_the_code_s(said: list[str], message: str) -> None:
    parts = message.split("...")
    assert sum(character.isalpha() for part in parts for character in part) >= LEAST
    pattern = re.compile(".*?".join(re.escape(part) for part in parts), re.DOTALL)
    assert any(pattern.search(text) for text in said)
