"""The card with the anomaly map: its figures and colours, its controls, and what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from bundle.masking import complementary_maskings, least_passes
from service.anomaly import SCALE, colour
from tests.browser.conftest import (
    SAMPLES,
    Complaints,
    OpenPage,
    Scheme,
    damaged_photo,
    give_photos,
    overflows,
    running_service,
    screenshot,
    take_sample,
    violations,
)  # fmt: skip
from tests.browser.reading import box, figure, pixels, reconstructed
from tests.service.helpers import NUM_PATCHES, make_bundle, serving_fake

DEFAULT = {"passes": 8, "mask_ratio": 0.5}


def part(page: Page, name: str) -> Locator:
    return page.locator(f"#anomaly [data-part={name}]")


def cells(page: Page) -> Locator:
    return page.locator("#anomaly [role=gridcell]")


def shows(page: Page, body: dict[str, Any]) -> None:
    """Wait until the card shows this answer."""
    rows, columns = body["grid"]
    worst = int(np.argmax(body["error"]))
    expect(part(page, "heat")).to_have_attribute(
        "aria-label",
        f"The error of all {rows * columns} patches over {body['passes']} passes: from {figure(min(body['error']))} to "
        f"{figure(body['max_error'])}, {figure(body['mean_error'])} on average; "
        f"Row {worst // columns + 1}, column {worst % columns + 1} has the largest",
    )
    more = " or more" if body["max_error"] > body["scale_max"] else ""
    expect(part(page, "legend").locator("span")).to_have_text(
        ["0", figure(body["scale_max"] / 2), figure(body["scale_max"]) + more]
    )


def words(body: dict[str, Any], index: int) -> str:
    error, columns = body["error"][index], body["grid"][1]
    return (
        f"Row {index // columns + 1}, column {index % columns + 1}: error {figure(error)}, "
        f"{figure(error / body['mean_error'])} times the average of the photo; "
        f"hidden in {body['hidden'][index]} of {body['passes']} passes."
    )


@pytest.fixture
def card(page: Page, service: str) -> Page:
    """The page with a sample's map in the card."""
    take_sample(page)
    part(page, "heat").scroll_into_view_if_needed()
    shows(page, reconstructed(service, **DEFAULT))
    return page


def test_the_map_is_the_mean_error_over_complementary_masks(card: Page, service: str) -> None:
    total, hidden = np.zeros(64), np.zeros(64)
    for masking in complementary_maskings(64, 0.5, 0, 8):
        mask = np.flatnonzero(masking.mask)
        error = np.array(reconstructed(service, mask=",".join(map(str, mask)))["error"])
        total[mask] += error[mask]
        hidden[mask] += 1
    expected = total / hidden
    labels = cells(card).evaluate_all("cells => cells.map(each => each.ariaLabel)")
    for index, label in enumerate(labels):
        place, error = label.split(", error ")
        assert place == f"Row {index // 8 + 1}, column {index % 8 + 1}"
        assert float(error) == pytest.approx(expected[index], rel=0.02, abs=1e-3)


def test_its_colours_are_the_services(card: Page, service: str) -> None:
    assert card.evaluate("import('/static/heat.js').then(heat => heat.SCALE)") == [list(each) for each in SCALE]
    body = reconstructed(service, **DEFAULT)
    expected = colour(np.array(body["error"]) / body["scale_max"]).reshape(8, 8, 3)
    assert np.abs(pixels(part(card, "heat"))[..., :3] - expected).max() <= 0.51
    assert np.all(pixels(part(card, "heat"))[..., 3] == 255)
    original = f"data:image/png;base64,{body['images']['original']}"
    for name in ("original", "grey"):
        assert part(card, name).evaluate("(image, source) => image.src === source", original)


def test_the_least_number_of_passes_is_the_services(page: Page) -> None:
    pairs = [(num_patches, percent / 100) for num_patches in (2, 9, 64, 196, 1024) for percent in range(5, 96)]
    found = page.evaluate(
        "async pairs => { const { leastPasses } = await import('/static/panels/anomaly.js');"
        " return pairs.map(each => leastPasses(...each)); }",
        pairs,
    )
    assert found == [least_passes(*each) for each in pairs]


def test_passes_and_ratio_by_keys(card: Page, service: str) -> None:
    part(card, "passes").press("Home")
    expect(part(card, "passes-text")).to_have_text("2")
    shows(card, reconstructed(service, passes=2, mask_ratio=0.5))
    part(card, "ratio").press("Home")  # where two passes hide only a part
    expect(part(card, "ratio-text")).to_have_text("5 %")
    expect(part(card, "passes-text")).to_have_text("16")
    shows(card, reconstructed(service, passes=16, mask_ratio=0.05))
    part(card, "ratio").press("End")
    expect(part(card, "passes-text")).to_have_text("2")  # as wanted
    shows(card, reconstructed(service, passes=2, mask_ratio=0.95))
    part(card, "passes").press("ArrowRight")
    shows(card, reconstructed(service, passes=3, mask_ratio=0.95))


def test_passes_with_the_mouse(card: Page, service: str) -> None:
    slider = box(part(card, "passes"))
    part(card, "passes").click(position={"x": slider["width"] / 2, "y": slider["height"] / 2})
    passes = int(part(card, "passes-text").inner_text())
    assert 15 <= passes <= 19
    shows(card, reconstructed(service, passes=passes, mask_ratio=0.5))


def test_a_kept_scale_makes_photos_comparable(card: Page, service: str) -> None:
    kept = reconstructed(service, **DEFAULT)["scale_max"]
    keep = part(card, "keep")
    keep.press("Enter")
    expect(keep).to_have_attribute("aria-pressed", "true")
    seen = set()
    for title, name in (("A rocket", "rocket"), ("A cup of coffee", "coffee"), ("Galaxies", "galaxies")):
        take_sample(card, title)
        part(card, "heat").scroll_into_view_if_needed()
        body = reconstructed(service, SAMPLES / f"{name}.jpg", scale_max=kept, **DEFAULT)
        shows(card, body)
        seen.add(body["max_error"] > kept)
        expected = colour(np.minimum(body["error"], kept) / kept).reshape(8, 8, 3)
        assert np.abs(pixels(part(card, "heat"))[..., :3] - expected).max() <= 0.51
    assert seen == {True, False}
    keep.click()
    expect(keep).to_have_attribute("aria-pressed", "false")
    shows(card, reconstructed(service, SAMPLES / "galaxies.jpg", **DEFAULT))


def test_a_patch_that_is_looked_at(card: Page, service: str) -> None:
    body = reconstructed(service, **DEFAULT)
    worst = words(body, int(np.argmax(body["error"])))
    title, text = part(card, "look-title"), part(card, "look-text")
    expect(title).to_have_text("The largest error")
    expect(text).to_have_text(worst)
    expect(card.locator("#anomaly .marker:visible")).to_have_count(2)
    for name in ("plain", "map"):
        side = box(part(card, name))["width"] / 8
        part(card, name).hover(position={"x": 5.5 * side, "y": 2.5 * side})
        expect(title).to_have_text("This patch")
        expect(text).to_have_text(words(body, 21))
        card.mouse.move(0, 0)
        expect(text).to_have_text(worst)
    part(card, "keep").focus()
    card.keyboard.press("Tab")
    expect(text).to_have_text(words(body, 0))
    card.keyboard.press("ArrowDown")
    card.keyboard.press("ArrowRight")
    expect(cells(card).nth(9)).to_be_focused()
    expect(text).to_have_text(words(body, 9))
    card.keyboard.press("Tab")
    expect(text).to_have_text(worst)


def test_a_tap_looks_at_a_patch(open_page: OpenPage, service: str) -> None:
    page = open_page(width=390, height=844, touch=True)
    take_sample(page)
    part(page, "heat").scroll_into_view_if_needed()
    body = reconstructed(service, **DEFAULT)
    shows(page, body)
    cells(page).nth(42).tap()
    expect(part(page, "look-text")).to_have_text(words(body, 42))


def test_a_defect_is_what_it_did_not_expect(page: Page, service: str, tmp_path: Path) -> None:
    photo = tmp_path / "blotted.png"
    image = np.full((64, 64, 3), 150, np.uint8)
    image[26:38, 42:54] = (200, 30, 30)
    Image.fromarray(image).save(photo)
    give_photos(page, photo)
    part(page, "heat").scroll_into_view_if_needed()
    body = reconstructed(service, photo, **DEFAULT)
    shows(page, body)
    worst = int(np.argmax(body["error"]))
    assert worst // 8 in (3, 4)
    assert worst % 8 in (5, 6)
    expect(part(page, "look-text")).to_have_text(words(body, worst))


def test_a_damaged_photo(page: Page, complaints: Complaints) -> None:
    complaints.expected.append("status of 400")
    give_photos(page, damaged_photo())
    page.locator("#anomaly h2").scroll_into_view_if_needed()
    expect(page.locator("#anomaly [role=alert]")).to_contain_text("damaged")


def test_a_service_that_allows_few_passes_and_then_is_gone(
    open_page: OpenPage, complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expected += ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET"]
    with serving_fake(make_bundle(tmp_path / "bundle"), max_images=3) as (served, _):
        url = f"{served.url}/"
        page = open_page(url)
        take_sample(page)
        part(page, "heat").scroll_into_view_if_needed()
        shows(page, reconstructed(url, passes=3, mask_ratio=0.5))
        part(page, "ratio").press("Home")
        least = int(part(page, "ratio-text").inner_text().removesuffix("%"))
        assert least_passes(NUM_PATCHES, least / 100) == 3
        assert least_passes(NUM_PATCHES, (least - 1) / 100) == 4
        shows(page, reconstructed(url, passes=3, mask_ratio=least / 100))
    part(page, "ratio").press("End")
    expect(page.locator("#anomaly [role=alert]")).to_contain_text("cannot be reached")


def test_several_workers_take_fewer_passes_each(open_page: OpenPage, tmp_path: Path) -> None:
    """Half of a worker's share of the queue, which the page is told."""
    bundle = make_bundle(tmp_path / "bundle")
    with running_service(
        "--runtime", "fake", "--workers", "2", bundle=bundle.path, MAEVE_MAX_IMAGES="8", MAEVE_MAX_QUEUE="16"
    ) as url:
        page = open_page(url)
        take_sample(page)
        part(page, "heat").scroll_into_view_if_needed()
        part(page, "passes").press("End")
        expect(part(page, "passes-text")).to_have_text("4")
        shows(page, reconstructed(url, passes=4, mask_ratio=0.5))
        page.close()  # it still asks, and the service is about to stop


def test_where_no_two_passes_are_allowed_there_is_no_card(open_page: OpenPage, tmp_path: Path) -> None:
    with serving_fake(make_bundle(tmp_path / "bundle"), max_images=1) as (served, _):
        page = open_page(f"{served.url}/")
        take_sample(page)
        expect(page.locator("#reconstruct")).to_be_visible()
        expect(page.locator("#anomaly")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, service: str, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    take_sample(page, "A cup of coffee")
    part(page, "heat").scroll_into_view_if_needed()
    shows(page, reconstructed(service, SAMPLES / "coffee.jpg", **DEFAULT))
    cells(page).nth(20).focus()
    screenshot(page, f"anomaly-{width}-{scheme}", "anomaly")
    assert not overflows(page)
    assert violations(page, "anomaly") == []
