"""The code in the documentation: every fenced block, where it stands, and what a comment before it says of it.

A block runs unless a rule of tests.docs.commands makes it a machine's or a day's work. What the text has to say to the
tests stands in an HTML comment right before the block, which readers do not see:

    <!-- run -->                   run it, although the rule would only check it
    <!-- not run: REASON -->       only check it
    <!-- fails -->                 it must end with another status than 0
    <!-- output -->                no code: what the block before it prints; see tests.docs.output
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
_MARK = re.compile(r"<!--\s*(run|not run|fails|output)\s*(?::\s*(.*?))?\s*-->", re.DOTALL)
_DIRECTIVE = re.compile(r"\{([\w-]+)\}")
_CODE_DIRECTIVES = {"code", "code-block", "code-cell", "sourcecode", "parsed-literal", "literalinclude", "doctest"}
_COLON_FENCE = re.compile(r"^\s*:{3,}\s*(\{[\w-]+\})")
_PREFORMATTED = re.compile(r"<(pre|code|script)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """line: of the first line of code, counted from 1. marks: what the comment before it says, by its first word."""

    path: str
    line: int
    language: str
    code: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


def documents(root: Path = ROOT) -> list[str]:
    """The files whose code is looked at, relative to `root`."""
    single = ("README.md", "CONTRIBUTING.md", "models/README.md", "benchmarks/README.md")
    return [*single, *sorted(str(path.relative_to(root)) for path in (root / "docs").rglob("*.md"))]


def read_blocks(path: str, root: Path = ROOT) -> list[Block]:
    """The blocks of a file, in order. Code that is in none, such as indented code, comes as a block without a language
    that is run, so that nothing escapes.
    """
    return list(_blocks(path, (root / path).read_text(), 0))


def _blocks(path: str, text: str, offset: int) -> Iterator[Block]:
    marks: dict[str, str] = {}
    for token in MarkdownIt().parse(text):
        line = offset + (token.map[0] if token.map else 0) + 1
        if token.type == "fence":
            yield from _fence(path, token, line, marks)
        elif token.type == "code_block":
            yield Block(path, line, "indented code", token.content)
        elif token.type == "html_block" and _PREFORMATTED.search(token.content):
            yield Block(path, line, "code in HTML", token.content)
        elif token.type == "inline" and (hidden := _COLON_FENCE.match(token.content)) and _is_code(hidden[1]):
            yield Block(path, line, hidden[1], token.content)
        if token.type == "html_block":
            marks = {name: reason.strip() for name, reason in _MARK.findall(token.content)}
        elif token.type in ("fence", "inline"):
            marks = {}


def _fence(path: str, token: Token, line: int, marks: dict[str, str]) -> Iterator[Block]:
    """A directive of the site that holds text is looked into; any other fence is code."""
    language = token.info.split()[0] if token.info.strip() else ""
    if _DIRECTIVE.fullmatch(language) and not _is_code(language):
        yield from _blocks(path, token.content, line)
    else:
        yield Block(path, line + 1, language, token.content, marks)


def _is_code(directive: str) -> bool:
    return directive.strip("{}") in _CODE_DIRECTIVES
