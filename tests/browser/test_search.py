"""What is nearest in an index: the card against numpy's cosines of the vectors that are in it."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.browser.conftest import (
    SAMPLES,
    Complaints,
    OpenPage,
    Scheme,
    overflows,
    running_service,
    screenshot,
    take_sample,
    violations,
)
from tests.browser.indexes import NAMES, SmallIndex, make_index, vector_of
from tests.browser.proxy import between
from tests.browser.reading import box
from tests.browser.search_card import (
    FIRST,
    ROUNDING,
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
from tests.browser.test_calls import KEY, address_of, answer, curled, run_curl, run_python, without_cached
from tests.service.helpers import eventually, free_port, make_bundle, serving_fake


def requests(page: Page, part: str) -> list[Request]:
    """Those from now on whose address has this part."""
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request) if part in request.url else None)
    return asked


@pytest.fixture(scope="module")
def index(service: str, tmp_path_factory: pytest.TempPathFactory) -> SmallIndex:
    return make_index(tmp_path_factory.mktemp("search"), service)


def settings(index: SmallIndex, **more: str) -> dict[str, str]:
    return {"MAEVE_SEARCH_INDEX": str(index.path), "MAEVE_THUMBNAILS": str(index.photos), **more}


@pytest.fixture(scope="module")
def searching(index: SmallIndex) -> Iterator[str]:
    """The address of a service with the index and its pictures."""
    with running_service(**settings(index)) as url:
        yield url


@pytest.fixture(scope="module")
def bare(index: SmallIndex) -> Iterator[str]:
    """The address of one with the index alone."""
    with running_service(MAEVE_SEARCH_INDEX=str(index.path)) as url:
        yield url


@pytest.fixture(scope="module")
def nearest(service: str, index: SmallIndex) -> list[tuple[str, float]]:
    """(path, score) of all rows, the nearest to the cat first."""
    return index.nearest(vector_of(service, SAMPLES / "cat.jpg"))


@pytest.fixture
def cat(open_page: OpenPage, searching: str) -> Page:
    """The page with the cat and its neighbours."""
    page = open_page(searching)
    search(page)
    return page


def rows_of(index: SmallIndex, nearest: list[tuple[str, float]]) -> list[dict[str, Any]]:
    """The index's rows with their `score`, the nearest first."""
    rows = {row["path"]: row for row in index.rows}
    return [{**rows[path], "score": score} for path, score in nearest]


def test_neighbours_are_those_of_the_stored_vectors(
    cat: Page, index: SmallIndex, nearest: list[tuple[str, float]]
) -> None:
    shows(cat, nearest[:FIRST])
    best, least = nearest[0][1], nearest[FIRST - 1][1]
    said = f"The {FIRST} nearest, with scores from {best:.3f} down to {least:.3f}."
    expect(part(cat, "said")).to_have_text(said)
    expect(part(cat, "size")).to_have_text(f"{len(index.rows)} images")
    first = rows_of(index, nearest)[0]
    told = tiles(cat).first.locator(".columns")
    expect(told).to_contain_text(f"subject {first['subject']} · year {first['year']}")
    expect(told).to_contain_text(f"brightness {first['brightness']:.3g}")


def test_more_and_fewer_by_key(cat: Page, index: SmallIndex, nearest: list[tuple[str, float]]) -> None:
    slider = part(cat, "count")
    slider.press("End")
    shows(cat, nearest)
    expect(part(cat, "count-text")).to_have_text(str(len(index.rows)))
    slider.press("Home")
    shows(cat, nearest[:1])
    expect(part(cat, "said")).to_have_text(f"The nearest, with the score {nearest[0][1]:.3f}.")


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


def test_filters_hold_together_and_can_be_taken_away(
    cat: Page, index: SmallIndex, nearest: list[tuple[str, float]]
) -> None:
    rows = rows_of(index, nearest)

    def fit(*conditions: Any) -> list[tuple[str, float]]:
        return [(row["path"], row["score"]) for row in rows if all(condition(row) for condition in conditions)][:FIRST]

    coffee = add_filter(cat, "subject", "=", "coffee,rocket")
    shows(cat, fit(lambda row: row["subject"] in ("coffee", "rocket")))
    add_filter(cat, "year", ">=", "2018")
    late = fit(lambda row: row["subject"] in ("coffee", "rocket"), lambda row: row["year"] >= 2018)
    shows(cat, late)
    expect(part(cat, "said")).to_contain_text(f"{len(late)} images fit the filters")
    add_filter(cat, "night", "!=", "true")
    shows(cat, [each for each in late if "darker" not in each[0]])
    coffee.get_by_role("button", name="Remove this filter").click()
    settled(cat)
    shows(cat, fit(lambda row: row["year"] >= 2018, lambda row: not row["night"]))
    expect(part(cat, "said")).to_contain_text(f"The {FIRST} nearest of those that fit the filters")
    add_filter(cat, "brightness", "<", "0.001")
    expect(tiles(cat)).to_have_count(0)
    expect(part(cat, "said")).to_have_text("No image fits the filters.")
    for button in part(cat, "filters").get_by_role("button").all()[::-1]:
        button.click()
    settled(cat)
    shows(cat, nearest[:FIRST])


def test_filters_by_keys_alone(cat: Page, nearest: list[tuple[str, float]]) -> None:
    part(cat, "add").focus()
    for key in ("Enter", "y", "Tab", "Tab"):  # a row, its column by its first letter
        cat.keyboard.press(key)
    cat.keyboard.type("2016")
    assert [path for path, _ in shown(cat)] == [path for path, _ in nearest[:FIRST]]  # it is still being typed
    cat.keyboard.press("Enter")
    settled(cat)
    expect(tiles(cat)).to_have_count(5)
    for tile in tiles(cat).all():
        expect(tile.locator(".columns")).to_contain_text("year 2016")
    cat.keyboard.press("Tab")
    expect(cat.locator(":focus")).to_have_accessible_name("Remove this filter")
    cat.keyboard.press("Enter")
    expect(part(cat, "add")).to_be_focused()
    settled(cat)
    shows(cat, nearest[:FIRST])


def test_truths_have_no_order(cat: Page) -> None:
    part(cat, "add").click()
    row = part(cat, "filters").locator("li")
    row.get_by_label("Comparison").select_option("<")
    row.get_by_label("Column").select_option("night")
    expect(row.get_by_label("Comparison")).to_have_value("=")
    expect(row.locator("option:enabled", has_text="is below")).to_have_count(0)
    expect(row.get_by_role("textbox")).to_be_hidden()


def test_a_refused_filter_is_told_in_the_services_words(cat: Page, complaints: Complaints) -> None:
    complaints.expected.append("422")
    row = add_filter(cat, "year", "=", "soon")
    expect(alert(cat)).to_contain_text("The service does not accept this. The service says:")
    expect(alert(cat)).to_contain_text("year takes a whole number")
    expect(card(cat)).to_have_class(re.compile(r"\brefused\b"))
    screenshot(cat, "search-refused-1280-light", "search")
    field = row.get_by_role("textbox")
    field.fill("2015")
    field.press("Enter")
    expect(alert(cat)).to_be_hidden()
    expect(card(cat)).not_to_have_class(re.compile(r"\brefused\b"))
    expect(tiles(cat)).to_have_count(5)


def test_a_neighbour_is_seen_larger(cat: Page, index: SmallIndex, nearest: list[tuple[str, float]]) -> None:
    button = tiles(cat).nth(1).get_by_role("button")
    button.click()
    dialog = cat.get_by_role("dialog")
    expect(dialog).to_have_accessible_name(nearest[1][0])
    expect(dialog).to_contain_text(f"Score {nearest[1][1]:.3f}, 2 of {FIRST}")
    row = rows_of(index, nearest)[1]
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
    cat: Page, index: SmallIndex, nearest: list[tuple[str, float]]
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


def test_the_answer_for_the_photo_before_is_not_shown(open_page: OpenPage, searching: str, index: SmallIndex) -> None:
    page = open_page(searching)
    held: list[Route] = []
    page.route("**/search?*", lambda route: held.append(route) if not held else route.continue_())
    take_sample(page)
    card(page).scroll_into_view_if_needed()
    eventually(lambda: page.title() and held)
    search(page, "A rocket")
    held[0].continue_()
    settled(page)
    shows(page, index.nearest(vector_of(searching, SAMPLES / "rocket.jpg"))[:FIRST])


def test_without_pictures_bars_tell_the_angle(open_page: OpenPage, bare: str, nearest: list[tuple[str, float]]) -> None:
    page = open_page(bare)
    search(page)
    shows(page, nearest[:FIRST])
    expect(tiles(page).get_by_role("button")).to_have_count(0)
    expect(part(page, "scale")).to_be_visible()
    for tile, (_, score) in zip(tiles(page).all(), nearest, strict=False):
        share = 1 - math.degrees(math.acos(min(1.0, score))) / 90
        widths = [box(tile.locator(name))["width"] for name in ("i", ".track")]
        assert widths[0] / widths[1] == pytest.approx(share, abs=0.01)


def test_there_is_no_card_without_an_index(page: Page) -> None:
    take_sample(page)
    expect(page.locator("#embedding")).to_be_visible()
    expect(card(page)).to_be_hidden()
    page.get_by_text("What is served", exact=True).click()
    expect(page.locator("#details")).to_contain_text("without an index, so there is nothing to search")


def test_the_header_says_what_is_searched(cat: Page, index: SmallIndex) -> None:
    cat.get_by_text("What is served", exact=True).click()
    expect(cat.locator("#details dl")).to_contain_text(f"{len(index.rows)} images, with their pictures")
    expect(cat.locator("#details")).not_to_contain_text("without an index")


def test_the_time_of_the_search_is_drawn_and_said(cat: Page) -> None:
    timing = card(cat).locator(".timing")
    expect(timing).to_contain_text(re.compile(r"search [\d.]+ ms"))
    expect(timing.locator(".bar [data-stage=search]")).to_be_visible()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_calls_give_what_is_shown(cat: Page, tmp_path: Path) -> None:
    photo = Path(shutil.copy(SAMPLES / "cat.jpg", tmp_path))
    add_filter(cat, "path", "!=", 'it\'s "odd" \\ & naïve,cat/as it is.jpg')
    add_filter(cat, "year", "<=", "2018")
    found = shown(cat)
    assert "cat/as it is.jpg" not in dict(found)
    card(cat).locator(".calls summary").click()
    curl = card(cat).locator("pre.curl").inner_text()
    told = curled(curl, tmp_path)
    assert without_cached(told) == without_cached(answer(address_of(curl), photo))
    result = run_python(card(cat).locator("pre.python").inner_text(), tmp_path)
    for rows in (told["results"][0], result[0]):
        assert [row["path"] for row in rows] == [path for path, _ in found]
        np.testing.assert_allclose([row["score"] for row in rows], [score for _, score in found], atol=ROUNDING)


@pytest.fixture(scope="module")
def locked(index: SmallIndex) -> Iterator[str]:
    """The address of a service that asks for KEY."""
    with running_service(**settings(index, MAEVE_API_KEY=KEY)) as url:
        yield url


def test_pictures_are_fetched_with_the_key(
    open_page: OpenPage, locked: str, nearest: list[tuple[str, float]], complaints: Complaints, tmp_path: Path
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
    open_page: OpenPage, index: SmallIndex, nearest: list[tuple[str, float]], complaints: Complaints
) -> None:
    """Its search, and the pictures that are not there yet."""
    complaints.expected += ["ERR_CONNECTION_REFUSED", "503"]  # as long as it stops, and then
    port = free_port()
    with running_service(port=port, **settings(index)) as url:
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
    with running_service(port=port, **settings(index)):
        expect(last).to_have_attribute("src", re.compile("^data:"), timeout=15_000)
        card(page).scroll_into_view_if_needed()
        expect(tiles(page)).to_have_count(1, timeout=15_000)
        shows(page, nearest[:1])
        page.close()  # other cards still ask, and the service is about to stop


def test_another_network_takes_its_index_with_it(open_page: OpenPage, searching: str, tmp_path: Path) -> None:
    """The card is gone where the next one has none, with the picture that was looked at."""
    addresses = [searching]

    def target(_: BaseHTTPRequestHandler) -> str:
        return addresses[-1]

    with serving_fake(make_bundle(tmp_path / "other", name="other")) as (other, _), between(target) as proxy:
        page = open_page(proxy.url)
        search(page)
        tiles(page).first.get_by_role("button").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        addresses.append(f"{other.url}/")
        part(page, "count").evaluate("slider => { slider.value = 3; slider.dispatchEvent(new Event('input')); }")
        expect(page.locator("#replaced")).to_contain_text("Another network is served now: other.")
        expect(card(page)).to_be_hidden()
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.locator("#classify").scroll_into_view_if_needed()
        expect(page.locator("#classify [data-part=labels]")).to_contain_text("%")
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, searching: str, width: int, scheme: Scheme) -> None:
    page = open_page(searching, width=width, height=2600, scheme=scheme)
    search(page)
    add_filter(page, "subject", "!=", "rocket")
    add_filter(page, "night", "=", "false")
    expect(tiles(page).locator("img[src]")).to_have_count(FIRST)
    screenshot(page, f"search-{width}-{scheme}", "search")
    assert not overflows(page)
    assert violations(page, "search") == []
    page.set_viewport_size({"width": width, "height": 844})
    tiles(page).nth(1).get_by_role("button").click()
    image = page.get_by_role("dialog").locator("img")
    eventually(lambda: max(picture(image).shape) > 320)
    page.screenshot(path=screenshot(page, f"search-larger-{width}-{scheme}", "search"))  # what lies below it too
    assert not overflows(page)
    assert violations(page, "search") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_its_list_fits_and_is_accessible(open_page: OpenPage, bare: str, width: int, scheme: Scheme) -> None:
    page = open_page(bare, width=width, scheme=scheme)
    search(page)
    screenshot(page, f"search-list-{width}-{scheme}", "search")
    assert not overflows(page)
    assert violations(page, "search") == []
