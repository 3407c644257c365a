"""The docs as a site: it builds without a warning, nothing is dead or out of reach, nothing is from elsewhere."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from training.pages.palette import COLORS

ROOT = Path(__file__).parents[2]
README_LINES = 80  # a screen
LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """What a page loads, where it links to, its anchors and its headings of the first level."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.num_h1 = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.num_h1 += tag == "h1"
        if target := values.get(LOADS.get(tag, "")):
            self.loads.append(target)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does, with `source` as the repository."""
    command = [sys.executable, "-m", "sphinx", "-c", str(source / "docs"), "-d", str(out / "doctrees"), "-W", "-q"]
    return subprocess.run(
        [*command, "--keep-going", str(source), str(out / "site")],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    built = build(ROOT, out)
    assert (built.returncode, built.stderr) == (0, "")
    return out / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in site.rglob("*.html") if "_static" not in path.parts}


def sources() -> set[Path]:
    """The Markdown that is meant for readers, as the site should have it."""
    folders = [ROOT.glob("C*.md"), (ROOT / "docs").rglob("*.md"), (ROOT / "benchmarks").rglob("*.md")]
    return {path.relative_to(ROOT) for paths in folders for path in paths} | {Path("models/README.md")}


def test_every_page_is_there_and_can_be_reached_from_the_home_page(site: Path, pages: dict[Path, Page]) -> None:
    reached, waiting = set(), [site / "docs" / "index.html"]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        near = {(path.parent / unquote(urlsplit(link).path)).resolve() for link in pages[path].links}
        waiting += (near & pages.keys()) - reached - set(waiting)
    assert {site / source.with_suffix(".html") for source in sources()} <= reached


def test_the_folder_itself_opens_the_home_page(site: Path) -> None:
    assert 'http-equiv="refresh" content="0; url=docs/index.html"' in (site / "index.html").read_text()


def test_no_link_leads_nowhere(site: Path, pages: dict[Path, Page]) -> None:
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = target.is_file() and target.is_relative_to(site)
            if not found or (parts.fragment and unquote(parts.fragment) not in pages[target].anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    outside = [load for page in pages.values() for load in page.loads if urlsplit(load).netloc]
    styles = [path for path in site.rglob("*") if path.suffix in {".css", ".svg"}]
    assert len(styles) > 3
    for path in styles:
        outside += re.findall(r"""@import[^;]+|url\(\s*["']?(?:https?:)?//[^)]+""", path.read_text())
    assert not outside


def test_every_page_has_one_title(site: Path, pages: dict[Path, Page]) -> None:
    counts = {str(source): pages[site / source.with_suffix(".html")].num_h1 for source in sources()}
    assert set(counts.values()) == {1}, {name: count for name, count in counts.items() if count != 1}


def test_what_is_dead_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("pyproject.toml", "docs/conf.py", "docs/_static", "docs/_templates"):
        (tmp_path / name).symlink_to(ROOT / name)
    (docs / "index.md").write_text("# Home\n")
    sound = build(tmp_path, tmp_path / "sound")
    assert (sound.returncode, sound.stderr) == (0, "")

    faults = ["[no page](nowhere.md)", "[no anchor](index.md#none)", "![no picture](no.png)", "```json\n{1: '\n```"]
    (docs / "index.md").write_text("\n\n".join(["# Home", *faults]) + "\n")
    (docs / "lost.md").write_text("# A page to which nothing leads\n")
    faulty = build(tmp_path, tmp_path / "faulty")
    assert faulty.returncode != 0
    for complaint in ("nowhere.md", "'none'", "no.png", "Lexing literal_block", "lost.md: WARNING"):
        assert complaint in faulty.stderr


def test_the_colours_are_those_of_the_other_pages() -> None:
    options = runpy.run_path(str(ROOT / "docs" / "conf.py"))["html_theme_options"]
    for theme, name in enumerate(("light", "dark")):
        colors = options[f"{name}_css_variables"]
        assert set(colors.values()) <= {pair[theme] for pair in COLORS.values()}
        assert colors["color-brand-primary"] == colors["color-brand-content"] == COLORS["accent"][theme]
        assert COLORS["accent"][theme] in (ROOT / "docs" / "_static" / options[f"{name}_logo"]).read_text()


def test_every_decision_is_in_the_list_by_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^- \[(\d+)\. (.+)\]\((\S+)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    real = []
    for path in folder.glob("[0-9]*.md"):
        title = re.match(r"# (\d+)\. (.+)\n", path.read_text())
        assert title, path.name
        assert path.name.startswith(f"{int(title[1]):04}-")
        real.append((*title.groups(), path.name))
    assert sorted(listed) == sorted(real)


def test_every_result_is_in_the_list_of_questions() -> None:
    folder = ROOT / "benchmarks"
    listed = set(re.findall(r"\((results/[\w.-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {f"results/{path.name}" for path in (folder / "results").glob("*.md")}


def test_the_readme_is_a_screen_and_links_to_what_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(links) > 10
    assert not [link for link in links if not (ROOT / link).is_file()]
    assert text.count("![") == 1


def test_every_target_of_make_is_told() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    told = set(re.findall(r"^\| `make (\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert told == targets
