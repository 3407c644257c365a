"""What the classifier takes a photo for, against what the service says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.bundles import without_classifier
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


def card(page: Page) -> Locator:
    return page.locator("#classify")


def part(page: Page, name: str) -> Locator:
    return page.locator(f"#classify [data-part={name}]")


def guesses(service: str, count: int) -> list[dict[str, Any]]:
    """What the service takes the cat for, most probable first."""
    body = (SAMPLES / "cat.jpg").read_bytes()
    answer = httpx.post(f"{service}classify", content=body, params={"top_k": count}, trust_env=False)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["predictions"][0]
    return found


@pytest.fixture
def cat(page: Page) -> Page:
    """The page with the cat, classified."""
    take_sample(page)
    card(page).scroll_into_view_if_needed()
    expect(part(page, "said")).to_contain_text("first guess")
    return page


def width(element: Locator) -> float:
    box = element.bounding_box()
    assert box is not None
    return box["width"]


def shows(page: Page, expected: list[dict[str, Any]], num_classes: int = 200) -> None:
    """Whether the card shows these guesses, and what is left for all others."""
    rows = part(page, "labels").locator("li")
    expect(rows).to_have_count(len(expected) + 1)
    percents = [100 * guess["probability"] for guess in expected]
    percents.append(100 - sum(percents))
    names = [guess["label"] for guess in expected] + [f"All {num_classes - len(expected)} others together"]
    for row, name, percent in zip(rows.all(), names, percents, strict=True):
        expect(row.locator("span")).to_have_text(name)
        assert float(row.locator("b").inner_text().removesuffix("%")) == pytest.approx(percent, abs=0.051)
        assert 100 * width(row.locator("i")) / width(row.locator(".track")) == pytest.approx(percent, abs=1)


def test_guesses_are_the_services(cat: Page, service: str) -> None:
    expected = guesses(service, 5)
    shows(cat, expected)
    percent = f"{100 * expected[0]['probability']:.1f}"
    expect(part(cat, "said")).to_have_text(f"Its first guess is “{expected[0]['label']}”, at {percent} %.")


def test_more_guesses_by_click_and_fewer_by_key(cat: Page, service: str) -> None:
    counts = part(cat, "counts")
    counts.get_by_role("button", name="10", exact=True).click()
    shows(cat, guesses(service, 10))
    expect(counts.locator("[aria-pressed=true]")).to_have_text("10")
    three = counts.get_by_role("button", name="3", exact=True)
    three.focus()
    three.press("Space")
    shows(cat, guesses(service, 3))
    expect(counts.locator("[aria-pressed=true]")).to_have_text("3")


def test_it_tells_what_the_classifier_knows(cat: Page, service: str) -> None:
    info = httpx.get(f"{service}info", trust_env=False).json()
    about = part(cat, "about")
    expect(about).to_contain_text(f"trained on {info['provenance']['dataset']}, knows {info['num_classes']} classes")
    right = round(100 * info["provenance"]["metrics"]["probe_test_top1"])
    expect(about).to_contain_text(f"Of the photos held out in training, its first guess was right for {right} %.")


def test_a_damaged_photo_is_told_in_words(cat: Page, complaints: Complaints) -> None:
    complaints.expected.append("400")
    give_photos(cat, damaged_photo())
    card(cat).scroll_into_view_if_needed()
    expect(card(cat).get_by_role("alert")).to_contain_text("damaged")
    expect(part(cat, "said")).to_be_hidden()  # it was said of the cat


def test_there_is_no_card_without_a_classifier(open_page: OpenPage, tmp_path: Path) -> None:
    with running_service(bundle=without_classifier(tmp_path / "bundle")) as url:
        page = open_page(url)
        take_sample(page)
        expect(page.locator("#embedding")).to_be_visible()
        expect(card(page)).to_be_hidden()
        page.close()  # it still asks, and the service is about to stop


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    take_sample(page)
    card(page).scroll_into_view_if_needed()
    expect(part(page, "said")).to_contain_text("first guess")
    screenshot(page, f"classify-{width}-{scheme}", "classify")
    assert not overflows(page)
    assert violations(page, "classify") == []
