"""The card on which a part of a photo is hidden and guessed, as its tests see it."""

from __future__ import annotations

from typing import Any

import httpx
from playwright.sync_api import Locator, Page, Request, expect

from tests.browser.reading import figure

PART = "#reconstruct [data-part={}]"
DEFAULT = {"mask_ratio": 0.75, "seed": 0}


def part(page: Page, name: str) -> Locator:
    return page.locator(PART.format(name))


def cell(page: Page, row: int, column: int) -> Locator:
    """Counted from 1, as the page does."""
    return page.locator("#reconstruct [role=row]").nth(row - 1).locator("[role=gridcell]").nth(column - 1)


def hidden(page: Page) -> list[int]:
    """The patches that the grid shows as hidden."""
    states = page.locator("#reconstruct [role=gridcell]").evaluate_all("cells => cells.map(each => each.ariaSelected)")
    return [index for index, state in enumerate(states) if state == "true"]


def shows(page: Page, body: dict[str, Any]) -> None:
    """Wait until the card shows this answer, and check every part of it."""
    for name, png in body["images"].items():
        page.wait_for_function(
            "([where, png]) => document.querySelector(where).src === `data:image/png;base64,${png}`",
            arg=[PART.format(name), png],
        )
    assert hidden(page) == [index for index, removed in enumerate(body["mask"]) if removed]
    expect(part(page, "reconstruction-text")).to_have_text(f"Reconstruction: error {figure(body['mean_error'])}")
    expect(part(page, "masked-text")).to_have_text(f"Masked: {sum(body['mask'])} of {len(body['mask'])} patches hidden")


def words(body: dict[str, Any], index: int) -> str:
    where = f"Row {index // 8 + 1}, column {index % 8 + 1}"
    if not body["mask"][index]:
        return f"{where}: visible, nothing to guess."
    return f"{where}: hidden, guessed with an error of {figure(body['error'][index])}."


def expect_answered(page: Page) -> None:
    """Wait until it shows something that is up to date."""
    expect(part(page, "reconstruction")).to_be_visible()
    expect(page.locator("#reconstruct .error")).to_be_hidden()
    expect(page.locator("#reconstruct.busy")).to_have_count(0)


def watch(page: Page) -> list[Request]:
    """What the card asks from now on."""
    found: list[Request] = []
    page.on("request", lambda request: found.append(request) if of_card(request) else None)
    return found


def of_card(request: Request) -> bool:
    """Whether it is this card's, and not the anomaly map's."""
    return "/reconstruct" in request.url and "passes" not in query(request)


def query(request: Request) -> dict[str, str]:
    return dict(httpx.URL(request.url).params)
