"""Painting by hand what is hidden: with the mouse, by keys, with a finger and by the buttons."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SAMPLES, OpenPage, take_sample
from tests.browser.reading import box, reconstructed
from tests.browser.reconstruct_card import DEFAULT, cell, hidden, part, query, shows, watch, words


@pytest.fixture
def card(page: Page, service: str) -> Page:
    """The page with a sample's answer in the card."""
    take_sample(page)
    shows(page, reconstructed(service, **DEFAULT))
    return page


def centre(page: Page, row: int, column: int) -> tuple[float, float]:
    """Of a patch, once the whole grid is in the window."""
    part(page, "canvas").scroll_into_view_if_needed()
    found = box(cell(page, row, column))
    return found["x"] + found["width"] / 2, found["y"] + found["height"] / 2


def test_a_click_turns_a_patch_and_a_drag_paints_what_the_first_became(card: Page, service: str) -> None:
    requests = watch(card)
    drawn = hidden(card)
    visible = next(index for index in range(64) if index not in drawn)
    cell(card, visible // 8 + 1, visible % 8 + 1).click()
    shows(card, reconstructed(service, mask=",".join(map(str, sorted([*drawn, visible])))))
    assert query(requests[-1]) == {"mask": ",".join(map(str, sorted([*drawn, visible])))}

    part(card, "clear").click()
    card.mouse.move(*centre(card, 2, 2))
    card.mouse.down()
    card.mouse.move(*centre(card, 2, 7))  # in one leap: those between are painted too
    card.mouse.move(*centre(card, 5, 7))
    card.mouse.up()
    card.mouse.move(*centre(card, 8, 8))  # no longer
    stroke = [*range(9, 15), 22, 30, 38]
    shows(card, reconstructed(service, mask=",".join(map(str, stroke))))
    expect(part(card, "state")).to_have_text("Painted by hand: 9 of 64 patches hidden.")
    expect(part(card, "ratio-text")).to_have_text("14 %")

    card.mouse.move(*centre(card, 2, 4))  # hidden, so that this stroke shows
    card.mouse.down()
    card.mouse.move(*centre(card, 3, 4))  # visible already
    card.mouse.move(*centre(card, 2, 7))  # by row 3, column 5, and row 2, column 6
    card.mouse.up()
    shows(card, reconstructed(service, mask="9,10,12,22,30,38"))


def test_painting_by_keys_is_announced(card: Page, service: str) -> None:
    first = [index for index in hidden(card) if index != 18] + ([] if 18 in hidden(card) else [18])
    part(card, "shuffle").focus()
    card.keyboard.press("Tab")
    expect(cell(card, 1, 1)).to_be_focused()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        card.keyboard.press(key)
    expect(cell(card, 3, 3)).to_be_focused()
    card.keyboard.press("Space")
    shows(card, reconstructed(service, mask=",".join(map(str, sorted(first)))))
    word = "hidden" if 18 in first else "visible"
    expect(part(card, "said")).to_have_text(
        f"Row 3, column 3, {word}. Painted by hand: {len(first)} of 64 patches hidden."
    )
    expect(cell(card, 3, 3)).to_have_attribute("aria-label", re.compile(f"^Row 3, column 3, {word}"))
    for key, row, column in (
        ("End", 3, 8),
        ("ArrowRight", 3, 8),
        ("Home", 3, 1),
        ("Control+End", 8, 8),
        ("Control+Home", 1, 1),
    ):
        card.keyboard.press(key)
        expect(cell(card, row, column)).to_be_focused()
    card.keyboard.press("Tab")
    expect(part(card, "clear")).to_be_focused()
    card.keyboard.press("Shift+Tab")
    expect(cell(card, 1, 1)).to_be_focused()  # one stop, at the cell last in focus


def test_the_buttons(card: Page, service: str) -> None:
    drawn = hidden(card)
    middle = [8 * row + column for row in range(2, 6) for column in range(2, 6)]
    part(card, "middle").press("Enter")
    shows(card, reconstructed(service, mask=",".join(map(str, middle))))
    expect(part(card, "said")).to_have_text("Painted by hand: 16 of 64 patches hidden.")
    part(card, "invert").press("Enter")
    shows(card, reconstructed(service, mask=",".join(str(index) for index in range(64) if index not in middle)))
    part(card, "random").press("Enter")
    shows(card, reconstructed(service, **DEFAULT))
    assert hidden(card) == drawn
    expect(part(card, "ratio-text")).to_have_text("75 %")
    expect(part(card, "state")).to_have_text("Drawn at random.")


def test_a_mask_that_cannot_be_is_said_and_not_sent(card: Page, service: str) -> None:
    requests = watch(card)
    part(card, "clear").click()
    expect(part(card, "state")).to_have_text("Nothing is hidden: paint at least one patch to have it guessed.")
    part(card, "invert").click()
    expect(part(card, "state")).to_have_text("Everything is hidden: leave at least one patch to guess from.")
    expect(card.locator("#reconstruct .stale")).to_have_count(1)
    assert requests == []
    cell(card, 1, 1).click()
    shows(card, reconstructed(service, mask=",".join(map(str, range(1, 64)))))
    expect(card.locator("#reconstruct .stale")).to_have_count(0)
    part(card, "clear").click()
    take_sample(card, "A rocket")  # another photo is not kept waiting for a mask
    shows(card, reconstructed(service, SAMPLES / "rocket.jpg", **DEFAULT))


def test_a_finger_paints_and_scrolls_elsewhere(open_page: OpenPage, service: str) -> None:
    page = open_page(width=390, height=844, touch=True)
    take_sample(page)
    shows(page, reconstructed(service, **DEFAULT))
    part(page, "clear").tap()
    start, end = centre(page, 2, 3), centre(page, 6, 3)
    scrolled = page.evaluate("scrollY")
    swipe(page, start, end)
    stroke = [8 * row + 2 for row in range(1, 6)]
    shows(page, reconstructed(service, mask=",".join(map(str, stroke))))
    assert page.evaluate("scrollY") == scrolled

    part(page, "masked").scroll_into_view_if_needed()
    scrolled = page.evaluate("scrollY")
    found = box(part(page, "masked"))
    swipe(page, (found["x"] + 70, found["y"] + 70), (found["x"] + 70, found["y"] - 130))
    page.wait_for_function("before => scrollY > before", arg=scrolled)
    assert hidden(page) == stroke

    body = reconstructed(service, mask=",".join(map(str, stroke)))
    side = box(part(page, "heat"))["width"] / 8
    part(page, "heat").tap(position={"x": 2.5 * side, "y": 3.5 * side})
    expect(part(page, "loupe-text")).to_have_text(words(body, 26))  # and stays, once the finger is lifted
    assert hidden(page) == stroke


def test_a_stroke_that_the_browser_takes_over_is_taken_back(card: Page) -> None:
    before = hidden(card)
    cell(card, 1, 1).evaluate(
        """cell => {
          const box = cell.getBoundingClientRect();
          const at = { clientX: box.x + 5, clientY: box.y + 5, pointerId: 1, isPrimary: true, bubbles: true };
          cell.dispatchEvent(new PointerEvent("pointerdown", at));
          window.between = cell.ariaSelected;
          cell.dispatchEvent(new PointerEvent("pointercancel", at));
        }"""
    )
    assert card.evaluate("between") == ("false" if 0 in before else "true")
    assert hidden(card) == before


def swipe(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """One finger, by the browser's own input, so that it scrolls where the page lets it."""
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    touch("touchStart", start)
    for step in range(1, 11):
        touch("touchMove", (start[0] + (end[0] - start[0]) * step / 10, start[1] + (end[1] - start[1]) * step / 10))
    touch("touchEnd")
