"""The service's page and the reports of training have one look, though neither may import the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contrast import contrast
from training.pages.palette import COLORS, css_variables

ROOT = Path(__file__).parents[2]
SERVICE, REPORTS = ROOT / "service" / "static", ROOT / "training" / "pages"
NAMES = ("page", "card", "line", "text", "soft", "accent", "bad", "on-accent")
SHARED = (
    "*", "html", "body", "main, header, footer", "header", "footer", "h1", "h2", "h3", "p", "a",
    ".soft, figcaption, footer", "code, pre", "pre", "figure", ":focus-visible", ".skip", ".skip:focus", ".card",
    ".card > * + *", ".card > h2 + p",
)  # fmt: skip


def rules(css: str) -> dict[str, str]:
    """selector -> declarations, of the first rule with each selector."""
    found: dict[str, str] = {}
    for selector, declarations in re.findall(r"([^{}]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)):
        found.setdefault(" ".join(selector.split()), " ".join(declarations.split()))
    return found


def tokens(css: str) -> dict[str, tuple[str, str]]:
    """name -> (light, dark) of the custom properties that are colours of both themes."""
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", css)
    return {name: (light, dark) for name, light, dark in found}


@pytest.fixture(scope="module")
def service() -> str:
    return (SERVICE / "style.css").read_text()


@pytest.fixture(scope="module")
def reports() -> str:
    return (REPORTS / "style.css").read_text()


def test_the_colours_are_equal(service: str) -> None:
    ours, theirs = tokens(css_variables()), tokens(service)
    assert ours == COLORS
    assert {name: ours[name] for name in NAMES} == {name: theirs[name] for name in NAMES}


def test_the_reports_use_no_colours_but_the_palette_s(reports: str) -> None:
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(", reports) == []
    used = set(re.findall(r"var\(--([\w-]+)\)", reports))
    assert used <= COLORS.keys() | {"radius", "share"}


@pytest.mark.parametrize("selector", SHARED)
def test_type_cards_and_rings_are_equal(selector: str, service: str, reports: str) -> None:
    assert rules(reports)[selector] == rules(service)[selector]


def test_corners_and_icons_are_equal(service: str, reports: str) -> None:
    radius = re.compile(r"--radius: ([^;]+);")
    assert radius.findall(reports) == radius.findall(service)
    icon = re.compile(r'<link rel="icon"[^>]*>')
    assert icon.findall((REPORTS / "page.html").read_text()) == icon.findall((SERVICE / "index.html").read_text())


@pytest.mark.parametrize("theme", [0, 1])
def test_text_can_be_read_in_both_themes(theme: int, service: str) -> None:
    """WCAG AA, for what both have in common."""
    colors = {name: pair[theme] for name, pair in tokens(service).items()}
    for ground in ("page", "card"):
        for name in ("text", "soft", "accent", "bad"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
    assert contrast(colors["on-accent"], colors["accent"]) >= 4.5
