"""The pictures of what is nearest in an index: how they are fetched, and how one is seen larger."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.browser.conftest import (
    SAMPLES,
    Complaints,
    OpenPage,
    running_service,
    screenshot,
    take_sample,
    violations,
)
from tests.browser.indexes import NAMES, Found, SmallIndex
from tests.browser.search_card import (
    FIRST,
    add_filter,
    alert,
    card,
    differs,
    part,
    picture,
    search,
    settled,
    shown,
    shows,
    tiles,
)  # fmt: skip
from tests.browser.test_calls import KEY, run_curl, run_python
from tests.service.helpers import eventually, free_port


@pytest.fixture
def cat(open_page: OpenPage, searching: str) -> Page:
    """The page with the cat and its neighbours."""
    page = open_page(searching)
    search(page)
    return page


def requests(page: Page, part: str) -> list[Request]:
    """Those from now on whose address has this part."""
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request) if part in request.url else None)
    return asked


def test_every_picture_is_that_of_its_row(open_page: OpenPage, searching: str, index: SmallIndex) -> None:
    """Whatever its name holds."""
    page = open_page(searching, height=2600)
    search(page)
    part(page, "count").press("End")
    expect(tiles(page)).to_have_count(len(index.rows))
    for path, _ in shown(page):
        image = part(page, "neighbours").get_by_alt_text(path, exact=True)
        expect(image).to_have_attribute("src", re.compile("^data:image/jpeg"))
        assert max(picture(image).shape) <= 320
        assert differs(image, index.photos / path) < 6


def test_pictures_are_fetched_as_they_come_near(open_page: OpenPage, searching: str, index: SmallIndex) -> None:
    page = open_page(searching, width=390)
    asked = requests(page, "/thumbnails/")
    search(page)
    part(page, "count").press("End")
    expect(tiles(page)).to_have_count(len(index.rows))
    images = tiles(page).locator("img")
    expect(images.first).to_have_attribute("src", re.compile("^data:"))
    expect(images.last).not_to_have_attribute("src", re.compile(""))
    last = images.last.get_attribute("alt")
    assert last not in [unquote(request.url.split("/thumbnails/")[1].split("?")[0]) for request in asked]
    images.last.scroll_into_view_if_needed()
    expect(images.last).to_have_attribute("src", re.compile("^data:"))
    addresses = [request.url for request in asked]
    assert len(addresses) == len(set(addresses))


def test_what_was_fetched_is_not_fetched_again(cat: Page) -> None:
    expect(tiles(cat).locator("img[src]")).to_have_count(FIRST)
    before = dict(shown(cat))
    asked = requests(cat, "/thumbnails/")
    add_filter(cat, "subject", "=", "cat")
    expect(tiles(cat).locator("img[src]")).to_have_count(len(NAMES))
    assert len(asked) == len(dict(shown(cat)).keys() - before.keys())


def test_a_picture_that_is_gone_is_told_as_such(
    open_page: OpenPage, searching: str, index: SmallIndex, complaints: Complaints
) -> None:
    complaints.expected.append("404")
    file = index.photos / "cat" / "grey.jpg"
    kept = file.read_bytes()
    file.unlink()
    try:
        page = open_page(searching)
        search(page)
        gone = tiles(page).filter(has=page.get_by_alt_text("cat/grey.jpg"))
        expect(gone.locator("img")).to_have_class("missing")
        expect(gone.get_by_role("button")).to_have_accessible_name("cat/grey.jpg No picture")
        expect(tiles(page).locator("img[src]")).to_have_count(FIRST - 1)
        gone.get_by_role("button").click()
        expect(part(page, "larger").locator("img")).to_have_class("missing")
        screenshot(page, "search-gone-picture-1280-light", "search")
        assert violations(page, "search") == []
    finally:
        file.write_bytes(kept)


def test_a_busy_service_is_asked_again(open_page: OpenPage, searching: str, complaints: Complaints) -> None:
    complaints.expected.append("429")
    page = open_page(searching)
    busy: list[Route] = []

    def answer(route: Route) -> None:
        if len(busy) == 2:
            return route.continue_()
        busy.append(route)
        return route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": {"message": "so many wait"}})

    page.route("**/thumbnails/**", answer)
    search(page)
    expect(tiles(page).locator("img[src]")).to_have_count(FIRST)
    assert len(busy) == 2
    expect(tiles(page).locator(".missing")).to_have_count(0)


def test_a_neighbour_is_seen_larger(cat: Page, index: SmallIndex, nearest: list[Found]) -> None:
    button = tiles(cat).nth(1).get_by_role("button")
    button.click()
    dialog = cat.get_by_role("dialog")
    expect(dialog).to_have_accessible_name(nearest[1][0])
    expect(dialog).to_contain_text(f"Score {nearest[1][1]:.3f}, 2 of {FIRST}")
    row = index.row(nearest[1][0])
    for value in (row["sha256"], str(row["year"]), row["subject"]):
        expect(dialog.locator("dl")).to_contain_text(value)
    eventually(lambda: max(picture(dialog.locator("img")).shape) > 320)
    assert differs(dialog.locator("img"), index.photos / nearest[1][0]) < 6
    cat.keyboard.press("ArrowRight")
    expect(dialog).to_have_accessible_name(nearest[2][0])
    dialog.get_by_role("button", name="Previous").click()
    dialog.get_by_role("button", name="Previous").click()
    expect(dialog).to_have_accessible_name(nearest[0][0])
    expect(dialog.get_by_role("button", name="Previous")).to_be_disabled()
    cat.keyboard.press("ArrowLeft")
    expect(dialog).to_have_accessible_name(nearest[0][0])
    cat.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    button.click()
    cat.mouse.click(5, 5)  # beside it
    expect(dialog).to_be_hidden()


def test_a_larger_picture_that_comes_late_is_not_shown_for_another(
    cat: Page, index: SmallIndex, nearest: list[Found]
) -> None:
    held: list[Route] = []
    cat.route("**/thumbnails/**?size=512", lambda route: held.append(route) if not held else route.continue_())
    tiles(cat).first.get_by_role("button").click()
    eventually(lambda: cat.title() and held)
    cat.keyboard.press("ArrowRight")
    image = cat.get_by_role("dialog").locator("img")
    eventually(lambda: max(picture(image).shape) > 320)
    held[0].fulfill(content_type="image/jpeg", body=(index.photos / nearest[0][0]).read_bytes())
    expect(image).to_have_attribute("alt", nearest[1][0])
    assert differs(image, index.photos / nearest[1][0]) < 6


@pytest.fixture(scope="module")
def locked(index: SmallIndex) -> Iterator[str]:
    """The address of a service that asks for KEY."""
    with running_service(**index.settings, MAEVE_API_KEY=KEY) as url:
        yield url


def test_pictures_are_fetched_with_the_key(
    open_page: OpenPage, locked: str, nearest: list[Found], complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expected.append("401")
    page = open_page(locked)
    asked = requests(page, "/thumbnails/")
    take_sample(page)
    card(page).scroll_into_view_if_needed()
    expect(alert(page)).to_have_text("This service is locked: it asks for an API key.")
    assert asked == []
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    card(page).scroll_into_view_if_needed()
    settled(page)
    shows(page, nearest[:FIRST])
    expect(tiles(page).locator("img[src^='data:image/jpeg']")).to_have_count(FIRST)
    assert {request.headers.get("x-api-key") for request in asked} == {KEY}
    card(page).locator(".calls summary").click()
    assert KEY not in page.content()
    if shutil.which("curl") is not None:
        shutil.copy(SAMPLES / "cat.jpg", tmp_path)
        calls = [card(page).locator(f"pre.{name}").inner_text() for name in ("curl", "python")]
        told = json.loads(run_curl(calls[0], tmp_path, MAEVE_API_KEY=KEY))["results"][0]
        result = run_python(calls[1], tmp_path, MAEVE_API_KEY=KEY)[0]
        assert [row["path"] for row in told] == [row["path"] for row in result] == [path for path, _ in nearest[:FIRST]]


def test_it_goes_on_once_the_service_is_back(
    open_page: OpenPage, index: SmallIndex, nearest: list[Found], complaints: Complaints
) -> None:
    """Its search, and the pictures that are not there yet."""
    complaints.expected += ["ERR_CONNECTION_REFUSED", "503"]  # as long as it stops, and then
    port = free_port()
    with running_service(port=port, **index.settings) as url:
        page = open_page(url, width=390)
        search(page)
        part(page, "count").press("End")
        expect(tiles(page)).to_have_count(len(index.rows))
        expect(tiles(page).locator("img").first).to_have_attribute("src", re.compile("^data:"))
    last = tiles(page).locator("img").last
    last.scroll_into_view_if_needed()
    part(page, "count").press("Home")
    expect(alert(page)).to_contain_text("The service cannot be reached. Is it still running? This goes on by itself")
    expect(tiles(page)).to_have_count(len(index.rows))  # of the same photo
    last.scroll_into_view_if_needed()
    screenshot(page, "search-gone-390-light", "search")
    assert violations(page, "search") == []
    assert last.get_attribute("src") is None
    with running_service(port=port, **index.settings):
        expect(last).to_have_attribute("src", re.compile("^data:"), timeout=15_000)
        card(page).scroll_into_view_if_needed()
        expect(tiles(page)).to_have_count(1, timeout=15_000)
        shows(page, nearest[:1])
        page.close()  # other cards still ask, and the service is about to stop
