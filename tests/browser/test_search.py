"""What is nearest in an index: the card against numpy's cosines of the vectors that are in it."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import (
    SAMPLES,
    SCREENSHOTS,
    Complaints,
    OpenPage,
    Scheme,
    overflows,
    running_service,
    screenshot,
    take_sample,
    violations,
)
from tests.browser.indexes import Found, SmallIndex, vector_of
from tests.browser.proxy import between
from tests.browser.reading import box
from tests.browser.search_card import (
    FIRST,
    ROUNDING,
    add_filter,
    alert,
    card,
    part,
    picture,
    search,
    settled,
    shown,
    shows,
    tiles,
)  # fmt: skip
from tests.browser.test_calls import address_of, answer, curled, run_python, without_cached
from tests.service.helpers import eventually, make_bundle, serving_fake


@pytest.fixture
def cat(open_page: OpenPage, searching: str) -> Page:
    """The page with the cat and its neighbours."""
    page = open_page(searching)
    search(page)
    return page


@pytest.fixture(scope="module")
def bare(index: SmallIndex) -> Iterator[str]:
    """The address of a service with the index alone."""
    with running_service(MAEVE_SEARCH_INDEX=str(index.path)) as url:
        yield url


def test_neighbours_are_those_of_the_stored_vectors(cat: Page, index: SmallIndex, nearest: list[Found]) -> None:
    shows(cat, nearest[:FIRST])
    best, least = nearest[0][1], nearest[FIRST - 1][1]
    said = f"The {FIRST} nearest, with scores from {best:.3f} down to {least:.3f}."
    expect(part(cat, "said")).to_have_text(said)
    expect(part(cat, "size")).to_have_text(f"{len(index.rows)} images")
    first = index.row(nearest[0][0])
    told = tiles(cat).first.locator(".columns")
    expect(told).to_contain_text(f"subject {first['subject']} · year {first['year']}")
    expect(told).to_contain_text(f"brightness {first['brightness']:.3g}")


def test_more_and_fewer_by_key(cat: Page, index: SmallIndex, nearest: list[Found]) -> None:
    slider = part(cat, "count")
    slider.press("End")
    shows(cat, nearest)
    expect(part(cat, "count-text")).to_have_text(str(len(index.rows)))
    slider.press("Home")
    shows(cat, nearest[:1])
    expect(part(cat, "said")).to_have_text(f"The nearest, with the score {nearest[0][1]:.3f}.")


def test_filters_hold_together_and_can_be_taken_away(cat: Page, index: SmallIndex, nearest: list[Found]) -> None:
    def fit(*conditions: Callable[[dict[str, Any]], bool]) -> list[Found]:
        return [each for each in nearest if all(condition(index.row(each[0])) for condition in conditions)][:FIRST]

    part(cat, "count").press("Home")
    coffee = add_filter(cat, "subject", "=", "coffee,rocket")
    shows(cat, fit(lambda row: row["subject"] in ("coffee", "rocket"))[:1])
    expect(part(cat, "said")).to_contain_text("The nearest of those that fit the filters, with the score")
    part(cat, "count").fill(str(FIRST))
    shows(cat, fit(lambda row: row["subject"] in ("coffee", "rocket")))
    expect(part(cat, "said")).to_contain_text(f"The {FIRST} nearest of those that fit the filters")
    add_filter(cat, "year", ">=", "2018")
    late = fit(lambda row: row["subject"] in ("coffee", "rocket"), lambda row: row["year"] >= 2018)
    shows(cat, late)
    expect(part(cat, "said")).to_contain_text(f"{len(late)} images fit the filters")
    add_filter(cat, "night", "!=", "true")
    shows(cat, [each for each in late if "darker" not in each[0]])
    coffee.get_by_role("button", name="Remove this filter").click()
    settled(cat)
    shows(cat, fit(lambda row: row["year"] >= 2018, lambda row: not row["night"]))
    expect(part(cat, "said")).to_contain_text("10 images fit the filters")
    add_filter(cat, "brightness", "<", "0.001")
    expect(tiles(cat)).to_have_count(0)
    expect(part(cat, "said")).to_have_text("No image fits the filters.")
    for button in part(cat, "filters").get_by_role("button").all()[::-1]:
        button.click()
    settled(cat)
    shows(cat, nearest[:FIRST])


def test_filters_by_keys_alone(cat: Page, nearest: list[Found]) -> None:
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


def test_without_pictures_bars_tell_the_angle(open_page: OpenPage, bare: str, nearest: list[Found]) -> None:
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


def test_another_network_takes_its_index_with_it(open_page: OpenPage, searching: str, tmp_path: Path) -> None:
    """The card is gone where the next one has none, with the picture that was looked at."""
    addresses = [searching]

    def target(_: BaseHTTPRequestHandler) -> str:
        return addresses[-1]

    with serving_fake(make_bundle(tmp_path / "other", name="other")) as (other, _), between(target) as proxy:
        page = open_page(proxy.url, height=6000)  # so that every card is in sight
        search(page)
        expect(tiles(page).locator("img[src]")).to_have_count(FIRST)  # none is asked for of the service that has none
        tiles(page).first.get_by_role("button").click()
        larger = page.get_by_role("dialog").locator("img")
        eventually(lambda: max(picture(larger).shape) > 320)
        addresses.append(f"{other.url}/")
        seed = page.locator("#reconstruct [data-part=seed]")  # below the dialog, so that no hand reaches it
        seed.evaluate("field => { field.value = 5; field.dispatchEvent(new Event('input')); }")
        expect(page.locator("#replaced")).to_contain_text("Another network is served now: other.")
        expect(card(page)).to_be_hidden()
        expect(page.get_by_role("dialog")).to_be_hidden()
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
    page.screenshot(path=SCREENSHOTS / f"search-larger-{width}-{scheme}.png")
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
