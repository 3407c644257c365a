"""The card that shows the photo as a vector: every figure, copy and file against the service's own answers."""

from __future__ import annotations

import io
import json
import math
from base64 import b64decode
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Position, expect

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

Vector = NDArray[np.float32]

# --plus and --minus of the style sheet, and the former in the dark
BLUE, ORANGE, LIGHT_BLUE = (0x24, 0x56, 0xC7), (0xC2, 0x57, 0x1A), (0x8D, 0xB0, 0xFF)


def part(page: Page, name: str) -> Locator:
    return page.locator(f"#embedding [data-part={name}]")


def showing(page: Page) -> Page:
    """The page, once the card shows a vector."""
    page.locator("#embedding").scroll_into_view_if_needed()
    expect(part(page, "text")).to_contain_text("values from")
    return page


@pytest.fixture
def card(page: Page) -> Page:
    take_sample(page)
    return showing(page)


def vector_of(url: str, name: str = "cat", **params: str) -> Vector:
    """float32 [D]"""
    answer = httpx.post(
        f"{url}embed", content=(SAMPLES / f"{name}.jpg").read_bytes(), params=params,
        headers={"accept": "application/x-npy"}, trust_env=False,
    )  # fmt: skip
    vector: Vector = np.load(io.BytesIO(answer.raise_for_status().content))[0]
    return vector


def figure(value: float) -> str:
    """Three digits that count, as JavaScript's toPrecision gives them."""
    exponent = int(f"{value:.2e}".split("e")[1])  # of the rounded number: 0.99999 is 1.00
    return f"{value:.{max(0, 2 - exponent)}f}".replace("-", "−")  # noqa: RUF001 - the sign that the page shows


def figures(vector: Vector) -> str:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return f"{len(vector)} values from {figure(vector.min())} to {figure(vector.max())}, length {figure(length)}: the"


def value_said(vector: Vector, at: int) -> str:
    return f"Value {at + 1} of {len(vector)}: {figure(vector[at])}"


def over(page: Page, at: int, rows: int = 1) -> Position:
    """Where a bar is in the strip."""
    box = part(page, "strip").bounding_box()
    assert box
    columns = math.ceil(192 / rows)
    across, down = (at % columns + 0.5) / columns, (at // columns + 0.5) / rows
    return {"x": box["width"] * across, "y": box["height"] * down}


def test_figures_of_either_pooling_and_length(card: Page, service: str) -> None:
    default = vector_of(service)
    np.testing.assert_array_equal(default, vector_of(service, pooling="mean"))  # what the bundle says
    expect(part(card, "text")).to_contain_text(f"{figures(default)} mean of the patches")
    expect(part(card, "mean")).to_have_attribute("aria-pressed", "true")
    part(card, "cls").click()
    expect(part(card, "text")).to_contain_text(f"{figures(vector_of(service, pooling='cls'))} class token")
    expect(part(card, "cls")).to_have_attribute("aria-pressed", "true")
    part(card, "normalize").focus()
    card.keyboard.press("Space")
    raw = vector_of(service, pooling="cls", normalize="false")
    expect(part(card, "text")).to_contain_text(figures(raw))
    part(card, "mean").focus()
    card.keyboard.press("Enter")
    raw = vector_of(service, pooling="mean", normalize="false")
    expect(part(card, "text")).to_contain_text(f"{figures(raw)} mean of the patches")


def test_the_calls_are_those_of_what_is_shown(card: Page) -> None:
    part(card, "cls").click()
    part(card, "normalize").uncheck()
    expect(card.locator("#embedding pre.curl")).to_contain_text("embed?pooling=cls&normalize=false")
    expect(card.locator("#embedding pre.python")).to_contain_text('pooling="cls", normalize=False')


def test_keys_go_from_value_to_value(card: Page, service: str) -> None:
    vector = vector_of(service)
    strip = part(card, "strip")
    strip.focus()
    steps = [
        ("ArrowRight", 0), ("ArrowRight", 1), ("ArrowUp", 2), ("PageUp", 12), ("ArrowDown", 11), ("PageDown", 1),
        ("End", 191), ("ArrowRight", 191), ("Home", 0), ("ArrowLeft", 0),
    ]  # fmt: skip
    for key, at in steps:
        card.keyboard.press(key)
        expect(part(card, "value")).to_have_text(value_said(vector, at))
        expect(strip).to_have_attribute("aria-valuenow", str(at + 1))
        expect(strip).to_have_attribute("aria-valuetext", value_said(vector, at))
    expect(strip).to_have_attribute("aria-valuemax", "192")
    expect(strip).to_have_role("slider")


def test_pointing_at_a_bar_reads_its_value(card: Page, service: str) -> None:
    vector = vector_of(service)
    for at in (0, 100, 191):
        part(card, "strip").hover(position=over(card, at))
        expect(part(card, "value")).to_have_text(value_said(vector, at))
    give_photos(card, SAMPLES / "rocket.jpg")  # the same value of another photo, so that the two can be compared
    expect(part(card, "value")).to_have_text(value_said(vector_of(service, "rocket"), 191))


def test_a_phone_has_two_rows_of_bars_to_tap(open_page: OpenPage, service: str) -> None:
    page = open_page(width=390, touch=True)
    take_sample(page)
    showing(page)
    vector = vector_of(service)
    for at in (5, 95, 96, 191):
        part(page, "strip").tap(position=over(page, at, rows=2))
        expect(part(page, "value")).to_have_text(value_said(vector, at))


def bars(page: Page) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: the bars as drawn."""
    url = part(page, "bars").evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(b64decode(url.split(",")[1]))).convert("RGB"))


def test_bars_are_drawn_anew_when_the_window_or_the_theme_changes(card: Page) -> None:
    light = bars(card)
    card.emulate_media(color_scheme="dark")
    dark = bars(card)
    assert (light == BLUE).all(axis=2).any()
    assert not (light == LIGHT_BLUE).all(axis=2).any()
    assert (dark == LIGHT_BLUE).all(axis=2).any()
    card.set_viewport_size({"width": 390, "height": 800})
    card.wait_for_function("() => document.querySelector('#embedding canvas').clientHeight > 200")  # two rows
    assert bars(card).shape[0] > light.shape[0]


def test_bars_are_as_long_as_their_values(card: Page, service: str) -> None:
    """Counted in the picture: the pixels of every bar's middle that have the colour of its sign."""
    vector = vector_of(service)
    drawn = bars(card)
    columns = ((np.arange(192) + 0.4) / 192 * drawn.shape[1]).astype(int)
    for colour, sign in ((BLUE, 1), (ORANGE, -1)):
        counted = (drawn[:, columns] == colour).all(axis=2).sum(axis=0)
        wanted = np.clip(sign * vector, 0, None) / (vector.max() - vector.min()) * drawn.shape[0]
        assert np.abs(counted - wanted).max() <= 2


def test_the_copy_is_the_vector_as_json(card: Page, service: str) -> None:
    part(card, "copy").click()
    expect(part(card, "said")).to_have_text("Copied 192 numbers as JSON.")
    expect(part(card, "said")).to_have_role("status")
    np.testing.assert_array_equal(np.array(json.loads(copied(card)), np.float32), vector_of(service))


def copied(page: Page) -> str:
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_a_copy_where_browsers_keep_the_clipboard_from_pages(open_page: OpenPage, service: str) -> None:
    """As over plain HTTP from another machine: there is no navigator.clipboard."""
    page = open_page()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    take_sample(page)
    showing(page)
    part(page, "copy").focus()
    page.keyboard.press("Enter")
    expect(part(page, "said")).to_have_text("Copied 192 numbers as JSON.")
    expect(part(page, "copy")).to_be_focused()
    other = page.context.new_page()
    other.goto(service)
    np.testing.assert_array_equal(np.array(json.loads(copied(other)), np.float32), vector_of(service))


def test_a_copy_that_is_refused_says_what_to_do(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.evaluate("document.execCommand = () => false")
    take_sample(page)
    showing(page)
    part(page, "copy").click()
    expect(part(page, "said")).to_contain_text("does not let pages copy")


def test_the_file_is_numpys(card: Page, service: str, tmp_path: Path) -> None:
    part(card, "cls").click()
    expect(part(card, "text")).to_contain_text("class token")
    with card.expect_download() as download:
        part(card, "save").click()
    assert download.value.suggested_filename == "cat.npy"
    expect(part(card, "said")).to_have_text("Saved cat.npy, for numpy.load.")
    download.value.save_as(tmp_path / "cat.npy")
    saved = np.load(tmp_path / "cat.npy")
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, vector_of(service, pooling="cls")[None])


def test_a_broken_photo_is_told_in_words(card: Page, complaints: Complaints) -> None:
    complaints.expected.append("400 (Bad Request)")
    give_photos(card, damaged_photo())
    expect(card.locator("#embedding .error")).to_contain_text("is truncated or corrupt")
    expect(part(card, "stage")).to_be_hidden()  # else another photo's vector would stand there
    expect(part(card, "copy")).to_be_disabled()
    expect(part(card, "save")).to_be_disabled()
    take_sample(card, "A rocket")
    showing(card)
    expect(part(card, "stage")).to_be_visible()
    expect(part(card, "copy")).to_be_enabled()
    expect(card.locator("#embedding .error")).to_be_hidden()


def test_limits_and_a_service_that_is_gone_are_told_in_words(open_page: OpenPage, complaints: Complaints) -> None:
    complaints.expected += ["413 (Request Entity Too Large)", "413 (Content Too Large)", "ERR_CONNECTION_REFUSED"]
    with running_service(MAEVE_MAX_PIXELS="150000") as url:
        page = open_page(url)
        take_sample(page)
        showing(page)
        out = io.BytesIO()
        Image.new("RGB", (400, 400)).save(out, "PNG")
        give_photos(page, {"name": "large.png", "mimeType": "image/png", "buffer": out.getvalue()})
        expect(page.locator("#embedding .error")).to_contain_text("more than this service takes")
        expect(part(page, "stage")).to_be_hidden()
        take_sample(page, "The same cat, closer")
        showing(page)
        expect(part(page, "stage")).to_be_visible()
    part(page, "save").click()
    expect(page.locator("#embedding .error")).to_contain_text("cannot be reached")
    expect(part(page, "stage")).to_be_visible()  # what is there is still this photo's


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    take_sample(page)
    showing(page)
    part(page, "strip").focus()
    page.keyboard.press("End")
    screenshot(page, f"embedding-{width}-{scheme}", "embedding")
    assert not overflows(page)
    assert violations(page, "embedding") == []
