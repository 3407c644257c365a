"""The card on which the nearest rows of an index are found, as its tests see it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import take_sample

FIRST = 12  # neighbours that it asks for to begin with
ROUNDING = 0.00051  # of three digits


def card(page: Page) -> Locator:
    return page.locator("#search")


def part(page: Page, name: str) -> Locator:
    return page.locator(f"#search [data-part={name}]")


def tiles(page: Page) -> Locator:
    return part(page, "neighbours").locator("li")


def alert(page: Page) -> Locator:
    return part(page, "trouble").get_by_role("alert")


def search(page: Page, title: str = "A cat") -> None:
    """Look at a sample, and see its neighbours."""
    take_sample(page, title)
    card(page).scroll_into_view_if_needed()
    settled(page)
    expect(tiles(page).first).to_be_visible()


def settled(page: Page) -> None:
    """The newest values of the controls are answered."""
    expect(card(page)).not_to_have_class(re.compile(r"\bbusy\b"))


def add_filter(page: Page, column: str, comparison: str, value: str) -> Locator:
    """Add a row, fill it, and be answered. The row."""
    rows = part(page, "filters").locator("li")
    row = rows.nth(rows.count())
    part(page, "add").click()
    row.get_by_label("Column").select_option(column)
    row.get_by_label("Comparison").select_option(comparison)
    field = row.get_by_label("Value").locator("visible=true")
    if column == "night":
        field.select_option(value)
    else:
        field.fill(value)
        field.press("Enter")
    settled(page)
    return row


def shown(page: Page) -> list[tuple[str, float]]:
    """(path, score) of every neighbour."""
    return [
        (tile.locator(".path").inner_text().replace("\n", ""), float(tile.locator("b").inner_text()))
        for tile in tiles(page).all()
    ]


def shows(page: Page, expected: list[tuple[str, float]]) -> None:
    """Whether the card shows these neighbours, in this order."""
    expect(tiles(page)).to_have_count(len(expected))
    found = shown(page)
    assert [path for path, _ in found] == [path for path, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=ROUNDING)


def picture(image: Locator) -> NDArray[np.uint8]:
    """[rows, columns, 3]: of an image whose address holds it."""
    address = image.get_attribute("src")
    assert address is not None
    assert address.startswith("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def differs(image: Locator, file: Path) -> float:
    """The mean difference of its pixels from the file's, 0 to 255."""
    seen = picture(image)
    whole = Image.open(file).convert("RGB").resize((seen.shape[1], seen.shape[0]), Image.Resampling.LANCZOS)
    return float(np.abs(seen.astype(float) - np.asarray(whole)).mean())
