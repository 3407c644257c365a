"""A real Chromium before a real service.

A page that logs an error, throws one, or asks another host for anything fails its test. Screenshots go to
build/screenshots, or where SCREENSHOTS says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, FilePayload, Page, Request, expect

from tests.browser.indexes import Found, SmallIndex, make_index, vector_of
from tests.chromium import open_browser
from tests.servers import ROOT, serving_bundle

SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", ROOT / "build" / "screenshots"))
SAMPLES = ROOT / "service" / "static" / "samples"
_RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}

Scheme = Literal["light", "dark"]
OpenPage = Callable[..., Page]


@dataclass
class Complaints:
    """What a page did that no page may do. `expected`: parts of messages that the test provokes."""

    found: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def watch(self, page: Page, home: str) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("request", lambda request: self._request(request, home))

    def unexpected(self) -> list[str]:
        return [each for each in self.found if not any(part in each for part in self.expected)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.found.append(f"{message.type}: {message.text}")

    def _request(self, request: Request, home: str) -> None:
        if not request.url.startswith((home, "data:", "blob:")):
            self.found.append(f"asked for {request.url}")


@contextmanager
def running_service(*flags: str, **options: Any) -> Iterator[str]:
    """The address of the page of a service; arguments as those of `serving_bundle`."""
    with serving_bundle(*flags, **options) as running:
        yield f"{running.url}/"


@pytest.fixture(scope="session")
def service() -> Iterator[str]:
    """The address of a service with the bundle in models/default, for all tests here."""
    with running_service() as url:
        yield url


@pytest.fixture(scope="session")
def index(service: str, tmp_path_factory: pytest.TempPathFactory) -> SmallIndex:
    """Of variants of the samples."""
    return make_index(tmp_path_factory.mktemp("index"), service)


@pytest.fixture(scope="session")
def searching(index: SmallIndex) -> Iterator[str]:
    """The address of a service with that index and its pictures."""
    with running_service(**index.settings) as url:
        yield url


@pytest.fixture(scope="session")
def nearest(service: str, index: SmallIndex) -> list[Found]:
    """All rows of the index, the nearest to the cat first."""
    return index.nearest(vector_of(service, SAMPLES / "cat.jpg"))


@pytest.fixture(scope="module")  # not longer: its event loop must not outlive these tests
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """Errors on the console and requests to elsewhere, of all pages of a test; it fails at its end if there are any."""
    complaints = Complaints()
    yield complaints
    assert complaints.unexpected() == []


@pytest.fixture
def open_page(browser: Browser, service: str, complaints: Complaints) -> Iterator[OpenPage]:
    """open_page(url=service, *, width=1280, height=900, scheme="light", touch=False, before=None) -> a page, in a
    context of its own. `touch`: as on a phone. `before`: what to do with the page before it is loaded.
    """
    contexts = []

    def open_(
        url: str = service,
        *,
        width: int = 1280,
        height: int = 900,
        scheme: Scheme = "light",
        touch: bool = False,
        before: Callable[[Page], None] | None = None,
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch, is_mobile=touch,
            permissions=["clipboard-read", "clipboard-write"] if url.startswith("http") else [],
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        complaints.watch(page, url.rsplit("/", 1)[0])
        if before is not None:
            before(page)
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """The service's page, 1280 pixels wide, light."""
    return open_page()


def take_sample(page: Page, title: str = "A cat") -> None:
    """Choose one of the page's samples by its title."""
    page.get_by_role("button", name=title, exact=True).first.click()


def give_photos(page: Page, *files: Path | FilePayload) -> None:
    """Choose files, as the browser's dialog would: those of these paths, or these."""
    page.locator("#drop input").set_input_files(cast("list[FilePayload]", list(files)))


def damaged_photo(name: str = "damaged.jpg") -> FilePayload:
    """One that begins like a photo."""
    return {"name": name, "mimeType": "image/jpeg", "buffer": (SAMPLES / "cat.jpg").read_bytes()[:3000]}


def screenshot(page: Page, name: str, card: str | None = None) -> Path:
    """Keep a picture of one card, or of the whole page: then the window is as high for a moment, so that no card waits
    to be seen.
    """
    path = SCREENSHOTS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if card is not None:
        page.locator(f"#{card}").screenshot(path=path)
        return path
    size = page.viewport_size
    assert size is not None
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    page.set_viewport_size({**size, "height": page.evaluate("document.documentElement.scrollHeight")})
    expect(page.locator(".card.busy")).to_have_count(0)
    page.screenshot(path=path, full_page=True)
    page.set_viewport_size(size)
    return path


def violations(page: Page, card: str | None = None) -> list[str]:
    """What axe-core finds against WCAG 2.1 AA, and its best practices, in one card or on the whole page."""
    results = Axe().run(page, context=None if card is None else f"#{card}", options=_RULES)
    return [
        f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes']]}"
        for each in results.response["violations"]
    ]


def overflows(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
