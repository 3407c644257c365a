"""A page as its reader has it: parsed, with what it would load and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

_VOID = {"meta", "link", "img", "br"}


@dataclass
class Parsed(HTMLParser):
    """sections: id -> text; tables: caption -> rows of cells; figures: alternative texts; loads: every src and href."""

    path: Path
    sections: dict[str, str] = field(default_factory=dict)
    tables: list[list[list[str]]] = field(default_factory=list)
    alts: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    verdict: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._section = ""
        self._in_verdict = False
        self.feed(self.path.read_text())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag not in _VOID:
            self._open.append(tag)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag == "section":
            self._section = found["id"] or ""
            self.sections[self._section] = ""
        if tag == "img" or (tag == "svg" and "svg" not in self._open[:-1]):
            self.alts.append(found.get("alt") or found.get("aria-label") or "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self._in_verdict = found.get("class") == "verdict"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section = ""
        self._in_verdict = False

    def handle_data(self, data: str) -> None:
        if self._in_verdict:
            self.verdict += data.replace("\N{NO-BREAK SPACE}", " ")
        if self._section:
            self.sections[self._section] += data
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="session")
def read_page() -> Callable[[Path], Parsed]:
    """Parse a page and hold it against what every page promises: it is whole, alone, and says what its figures show."""

    def read(path: Path) -> Parsed:
        page = Parsed(path)
        outside = [address for address in page.loads if not address.startswith(("data:", "#"))]
        assert outside == []
        assert "@import" not in path.read_text()
        assert "script" not in page.tags
        assert all(len(alt) > 20 for alt in page.alts)
        assert len(page.ids) == len(set(page.ids))
        missing = [address for address in page.loads if address.startswith("#") and address[1:] not in page.ids]
        assert missing == []
        return page

    return read
