"""The card on which a part of a photo is hidden and guessed: what it shows, and the ways to choose the part."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Request, expect

from bundle.store import Bundle
from service.anomaly import colour
from tests.browser.conftest import (
    SAMPLES,
    Complaints,
    OpenPage,
    Scheme,
    overflows,
    screenshot,
    take_sample,
    violations,
)
from tests.browser.reading import box, figure, pixels, reconstructed
from tests.service.helpers import DIM, GRAPHS, make_bundle, serving_fake, tensor

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


@pytest.fixture
def card(page: Page, service: str) -> Page:
    """The page with a sample's answer in the card."""
    take_sample(page)
    shows(page, reconstructed(service, **DEFAULT))
    return page


@pytest.fixture
def requests(card: Page) -> list[Request]:
    """What the card asks from now on."""
    found: list[Request] = []
    card.on("request", lambda request: found.append(request) if of_card(request) else None)
    return found


def of_card(request: Request) -> bool:
    """Whether it is this card's, and not the anomaly map's."""
    return "/reconstruct" in request.url and "passes" not in query(request)


def query(request: Request) -> dict[str, str]:
    return dict(httpx.URL(request.url).params)


def test_the_heat_map_has_a_colour_for_each_hidden_patch_and_none_for_others(card: Page, service: str) -> None:
    body = reconstructed(service, **DEFAULT)
    error, mask = np.array(body["error"]), np.array(body["mask"])
    top = float(part(card, "legend").locator("span").last.inner_text())
    assert error[mask == 1].max() <= top <= 2 * error[mask == 1].max()
    expected = colour(np.clip(error / top, 0, 1))
    colours = pixels(part(card, "heat")).reshape(-1, 4)
    assert np.all(colours[mask == 0, 3] == 0)
    assert np.all(colours[mask == 1, 3] == 255)
    assert np.abs(colours[mask == 1, :3] - expected[mask == 1]).max() <= 0.51
    label = part(card, "heat").get_attribute("aria-label") or ""
    worst = int(np.where(mask == 1, error, -1).argmax())
    for value in (error[mask == 1].min(), error[worst], body["mean_error"]):
        assert figure(value) in label
    assert f"Row {worst // 8 + 1}, column {worst % 8 + 1} has the largest" in label


_DRAG = """async (values) => {
  const slider = document.querySelector("#reconstruct [data-part=ratio]");
  const stage = document.querySelector("#reconstruct .stage");
  const heights = new Set(), undrawn = [];
  let swaps = 0;
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) for (const node of addedNodes) {
      if (node.tagName !== "IMG") continue;
      swaps++;
      if (!node.complete || !node.naturalWidth) undrawn.push(node.dataset.part);
    }
    heights.add(stage.offsetHeight);
  }).observe(stage, { childList: true, subtree: true });
  for (const value of values) {
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise(requestAnimationFrame);
  }
  window.seen = { heights, undrawn, swaps: () => swaps };
}"""


def test_pictures_follow_the_slider_without_flicker(card: Page, service: str, requests: list[Request]) -> None:
    under_way, most = [0], [0]

    def begun(request: Request) -> None:
        under_way[0] += of_card(request)
        most[0] = max(most[0], under_way[0])

    def ended(request: Request) -> None:
        under_way[0] -= of_card(request)

    card.on("request", begun)
    card.on("requestfinished", ended)
    values = list(range(74, 29, -2))
    card.evaluate(_DRAG, values)
    shows(card, reconstructed(service, mask_ratio=values[-1] / 100, seed=0))
    expect(part(card, "ratio-text")).to_have_text(f"{values[-1]} %")
    assert most == [1]
    assert 2 <= len(requests) <= len(values)
    assert card.evaluate("[seen.undrawn.length, seen.heights.size]") == [0, 1]
    assert card.evaluate("seen.swaps()") == 3 * len(requests)


_TIMED = """async (value) => {
  const slider = document.querySelector("#reconstruct [data-part=ratio]");
  const stage = document.querySelector("#reconstruct .stage");
  const swapped = new Promise((resolve) => new MutationObserver((changes, observer) => {
    if (!changes.some(({ addedNodes }) => [...addedNodes].some((node) => node.tagName === "IMG"))) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(resolve));
  }).observe(stage, { childList: true, subtree: true }));
  const start = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  await swapped;
  return performance.now() - start;
}"""


def test_how_long_a_move_of_the_slider_takes(card: Page, service: str) -> None:
    """Prints it: from the event to the painted picture, beside what the service says of its own part."""
    for value in (60, 50, 40):
        with card.expect_response(lambda answer: of_card(answer.request)) as caught:
            whole = card.evaluate(_TIMED, value)
        said = caught.value.headers["server-timing"]
        print(f"slider to picture {whole:.0f} ms; the service: {said}")
        shows(card, reconstructed(service, mask_ratio=value / 100, seed=0))


def test_the_slider_and_the_seed_by_keys(card: Page, service: str) -> None:
    part(card, "ratio").focus()
    card.keyboard.press("ArrowLeft")
    expect(part(card, "ratio-text")).to_have_text("74 %")
    shows(card, reconstructed(service, mask_ratio=0.74, seed=0))
    part(card, "seed").fill("7")
    shows(card, reconstructed(service, mask_ratio=0.74, seed=7))
    part(card, "shuffle").press("Enter")
    expect(part(card, "seed")).to_have_value("8")
    shows(card, reconstructed(service, mask_ratio=0.74, seed=8))
    part(card, "seed").fill("-3")
    shows(card, reconstructed(service, mask_ratio=0.74, seed=0))


def centre(page: Page, row: int, column: int) -> tuple[float, float]:
    """Of a patch, once the whole grid is in the window."""
    part(page, "canvas").scroll_into_view_if_needed()
    found = box(cell(page, row, column))
    return found["x"] + found["width"] / 2, found["y"] + found["height"] / 2


def test_a_click_turns_a_patch_and_a_drag_paints_what_the_first_became(
    card: Page, service: str, requests: list[Request]
) -> None:
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


def test_a_mask_that_cannot_be_is_said_and_not_sent(card: Page, service: str, requests: list[Request]) -> None:
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


def test_a_patch_that_is_looked_at_is_marked_enlarged_and_told(card: Page, service: str) -> None:
    body = reconstructed(service, **DEFAULT)
    worst = max((index for index in range(64) if body["mask"][index]), key=lambda index: body["error"][index])
    expect(part(card, "loupe-title")).to_have_text("The largest error")
    expect(part(card, "loupe-text")).to_have_text(words(body, worst))
    markers = card.locator("#reconstruct .marker:visible")
    expect(markers).to_have_count(1)

    for target in ("masked", "reconstruction", "heat"):
        side = box(part(card, target))["width"] / 8
        part(card, target).hover(position={"x": 5.5 * side, "y": 2.5 * side})
        expect(part(card, "loupe-title")).to_have_text("This patch")
        expect(part(card, "loupe-text")).to_have_text(words(body, 21))
        expect(markers).to_have_count(4)
        card.mouse.move(0, 0)
        expect(part(card, "loupe-text")).to_have_text(words(body, worst))

    cell(card, 2, 4).focus()
    expect(part(card, "loupe-text")).to_have_text(words(body, 11))
    original = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["images"]["original"]))))
    assert np.array_equal(pixels(part(card, "before"))[..., :3], original[0:24, 16:40])
    cell(card, 2, 4).blur()
    expect(part(card, "loupe-title")).to_have_text("The largest error")


def words(body: dict[str, Any], index: int) -> str:
    where = f"Row {index // 8 + 1}, column {index % 8 + 1}"
    if not body["mask"][index]:
        return f"{where}: visible, nothing to guess."
    return f"{where}: hidden, guessed with an error of {figure(body['error'][index])}."


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


def test_a_damaged_photo_and_then_a_good_one(page: Page, service: str, complaints: Complaints, tmp_path: Path) -> None:
    complaints.expected.append("status of 400")
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes((SAMPLES / "cat.jpg").read_bytes()[:3000])
    page.locator("input[type=file]").first.set_input_files(damaged)
    alert = page.locator("#reconstruct [role=alert]")
    expect(alert).to_contain_text("damaged")
    take_sample(page)
    shows(page, reconstructed(service, **DEFAULT))
    expect(alert).to_be_hidden()


def test_a_photo_that_is_too_large_and_a_service_that_is_gone(
    open_page: OpenPage, complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expected += ["status of 413", "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET"]
    with serving_fake(make_bundle(tmp_path / "bundle"), max_pixels=100_000) as (served, _):
        page = open_page(f"{served.url}/")
        take_sample(page)  # 451 x 300
        alert = page.locator("#reconstruct [role=alert]")
        expect(alert).to_contain_text("more than this service takes")
        take_sample(page, "The same cat, closer")  # 300 x 300
        shows(page, reconstructed(f"{served.url}/", SAMPLES / "cat-closer.jpg", **DEFAULT))
    part(page, "ratio").press("ArrowLeft")
    expect(alert).to_contain_text("cannot be reached")


def test_without_a_decoder_the_page_says_why_there_is_no_card(open_page: OpenPage, tmp_path: Path) -> None:
    with serving_fake(make_bundle(tmp_path / "bundle", "encoder")) as (served, _):
        page = open_page(f"{served.url}/")
        said = page.get_by_text("cannot guess hidden patches")
        expect(said).to_be_hidden()
        take_sample(page)
        expect(said).to_be_visible()
        expect(page.locator("#embedding")).to_be_visible()
        expect(page.locator("#reconstruct")).to_be_hidden()
        expect(page.locator("#anomaly")).to_be_hidden()


def grey_bundle(folder: Path, height: int, width: int) -> Bundle:
    """Of grey pictures in patches of 4 pixels, for the fake runtime; its pixel target is normalized."""
    num_patches = height * width // 16
    images = tensor("images", "uint8", "N", height, width, 1)
    encoder, decoder = GRAPHS["encoder"], GRAPHS["decoder"]
    graphs = {
        "encoder": encoder | {"inputs": [images, encoder["inputs"][1]]},
        "decoder": decoder | {
            "inputs": [decoder["inputs"][0], tensor("ids_restore", "int64", "N", num_patches)],
            "outputs": [tensor("patches", "float32", "N", num_patches, 16)],
        },
    }  # fmt: skip
    model = {
        "image_size": (height, width), "patch_size": 4, "channels": 1, "dim": DIM, "depth": 1, "heads": 2,
        "mlp_ratio": 4, "decoder": {"dim": 32, "depth": 1, "heads": 2},
    }  # fmt: skip
    preprocess = {"resize": (height, width), "crop": (height, width), "mean": [0.5], "std": [0.25]}
    return make_bundle(folder, "encoder", "decoder", model=model, preprocess=preprocess, graphs=graphs)


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48)])
def test_another_shape_of_picture(open_page: OpenPage, tmp_path: Path, height: int, width: int) -> None:
    rows, columns = height // 4, width // 4
    with serving_fake(grey_bundle(tmp_path / "bundle", height, width)) as (served, _):
        page = open_page(f"{served.url}/")
        take_sample(page)
        shows(page, reconstructed(f"{served.url}/", **DEFAULT))
        shape = box(part(page, "heat"))
        assert shape["width"] / shape["height"] == pytest.approx(width / height, rel=0.01)
        assert pixels(part(page, "heat")).shape == (rows, columns, 4)
        expect(part(page, "borrowed")).to_be_visible()
        expect(part(page, "unit")).to_contain_text("own average colour")
        part(page, "middle").click()
        rectangle = np.zeros((rows, columns), bool)
        rectangle[rows // 4 : -rows // 4, columns // 4 : -columns // 4] = True
        mask = ",".join(map(str, np.flatnonzero(rectangle)))
        shows(page, reconstructed(f"{served.url}/", mask=mask))
        cell(page, rows, columns).focus()
        expect(part(page, "loupe-text")).to_have_text(f"Row {rows}, column {columns}: visible, nothing to guess.")
        screenshot(page, f"reconstruct-{height}x{width}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, service: str, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    take_sample(page)
    shows(page, reconstructed(service, **DEFAULT))
    part(page, "middle").click()
    expect(part(page, "masked-text")).to_contain_text("16 of 64")
    cell(page, 4, 4).focus()
    screenshot(page, f"reconstruct-{width}-{scheme}")
    assert not overflows(page)
    assert violations(page) == []
