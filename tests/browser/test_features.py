"""The card that shows the patches' vectors: its colours and figures against numpy on the service's own vectors."""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Position, expect

from bundle.preprocess import preprocess
from bundle.store import Bundle, write_bundle
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
from tests.conftest import write_run

Array = NDArray[Any]

SPACE = "\N{NO-BREAK SPACE}"

_IS_NARROW = """() => {
  const { width, clientWidth } = document.querySelector("#features canvas");
  return width === clientWidth && width < 350;
}"""


def part(page: Page, name: str) -> Locator:
    return page.locator(f"#features [data-part={name}]")


def showing(page: Page) -> Page:
    """The page, once the card shows its colours."""
    page.locator("#features").scroll_into_view_if_needed()
    expect(part(page, "shares-list").locator("li")).to_have_count(4)
    expect(page.locator("#features")).not_to_have_class("busy")
    return page


@pytest.fixture
def card(page: Page) -> Page:
    take_sample(page)
    return showing(page)


def vectors_of(url: str, image: bytes) -> Array:
    """float64 [L, D]"""
    answer = httpx.post(
        f"{url}embed", content=image, params={"pooling": "patches"}, headers={"accept": "application/x-npy"},
        trust_env=False,
    )  # fmt: skip
    values: Array = np.load(io.BytesIO(answer.raise_for_status().content))[0].astype(np.float64)
    return values


def grey(height: int = 64, width: int = 64) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(out, "PNG")
    return out.getvalue()


def sample(name: str = "cat") -> bytes:
    return (SAMPLES / f"{name}.jpg").read_bytes()


def colours(vectors: Array, fitted: Array) -> tuple[Array, Array]:
    """The colours of `vectors` on the axes of `fitted`, int [L, 3], and the axes' shares of what differs, [3]."""
    mean = fitted.mean(axis=0)
    _, singular, axes = np.linalg.svd(fitted - mean, full_matrices=False)
    axes = axes[:3] * np.sign(np.take_along_axis(axes[:3], np.abs(axes[:3]).argmax(axis=1)[:, None], axis=1))
    scores, all_scores = (vectors - mean) @ axes.T, np.sort((fitted - mean) @ axes.T, axis=0)
    low, high = (all_scores[int(part * (len(fitted) - 1) + 0.5)] for part in (0.02, 0.98))
    return np.rint(255 * np.clip((scores - low) / (high - low), 0, 1)), (singular**2 / (singular**2).sum())[:3]


def pixels_of(page: Page) -> Array:
    """uint8 [H, W, 3]: the map as drawn."""
    url = part(page, "map").evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(b64decode(url.split(",")[1]))).convert("RGB"))


def centres(pixels: Array, grid: tuple[int, int] = (8, 8)) -> Array:
    """int [L, 3]: the colour in the middle of each patch."""
    rows, columns = (
        ((np.arange(count) + 0.5) / count * size).astype(int) for count, size in zip(grid, pixels.shape, strict=False)
    )
    found: Array = pixels[rows][:, columns].reshape(-1, 3).astype(int)
    return found


def shown_colours(page: Page, grid: tuple[int, int] = (8, 8)) -> Array:
    """int [L, 3]: the patches' colours, with nothing of the photo below."""
    part(page, "opacity").fill("100")
    return centres(pixels_of(page), grid)


def likeness(vectors: Array, patch: int) -> Array:
    """The cosines that the card shows, [L]."""
    centred = vectors - vectors.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosines: Array = unit @ unit[patch]
    return cosines


def said_of(cosines: Array, patch: int, columns: int = 8) -> str:
    def named(other: int) -> str:
        cosine = f"{cosines[other]:.2f}".replace("-", "−")  # noqa: RUF001 - the sign that the page shows
        return f"row {other // columns + 1}, column {other % columns + 1} ({cosine})"

    others = sorted((i for i in range(len(cosines)) if i != patch), key=lambda i: -cosines[i])
    here = f"Patch in row {patch // columns + 1}, column {patch % columns + 1}."
    return f"{here} Most alike: {'; '.join(map(named, others[:3]))}. Least alike: {named(others[-1])}."


def middle(page: Page, patch: int, columns: int = 8, rows: int = 8) -> Position:
    """Where a patch lies in the grid, as Playwright's `position`."""
    box = part(page, "grid").bounding_box()
    assert box
    across, down = patch % columns + 0.5, patch // columns + 0.5
    return {"x": box["width"] * across / columns, "y": box["height"] * down / rows}


def test_colours_are_the_first_three_components(card: Page, service: str) -> None:
    vectors = vectors_of(service, sample()) - vectors_of(service, grey())
    wanted, shares = colours(vectors, vectors)
    assert np.abs(shown_colours(card) - wanted).max() <= 2
    figures = part(card, "shares-list").locator("b").all_inner_texts()
    assert figures == [f"{round(100 * share)}{SPACE}%" for share in [*shares, 1 - shares.sum()]]

    part(card, "place").focus()
    card.keyboard.press("Space")
    raw = vectors_of(service, sample())
    wanted, shares = colours(raw, raw)
    expect(part(card, "shares-list").locator("b").first).to_have_text(f"{round(100 * shares[0])}{SPACE}%")
    assert np.abs(shown_colours(card) - wanted).max() <= 2


def test_the_same_photo_has_the_same_colours_again(open_page: OpenPage) -> None:
    seen = []
    for _ in range(2):
        page = open_page()
        take_sample(page)
        seen.append(shown_colours(showing(page)))
    np.testing.assert_array_equal(seen[0], seen[1])


def test_the_map_is_drawn_anew_when_the_window_changes(card: Page) -> None:
    before = shown_colours(card)
    card.set_viewport_size({"width": 390, "height": 800})
    card.wait_for_function(_IS_NARROW)
    np.testing.assert_array_equal(shown_colours(card), before)


def test_pointing_at_a_patch_shows_what_it_is_like(card: Page, service: str) -> None:
    cosines = likeness(vectors_of(service, sample()) - vectors_of(service, grey()), 26)
    part(card, "grid").hover(position=middle(card, 26))
    expect(part(card, "readout")).to_have_text(said_of(cosines, 26))
    expect(part(card, "map")).to_have_attribute(
        "aria-label", f"How like it the other patches are. {said_of(cosines, 26)}"
    )
    others = np.delete(cosines, 26)
    expect(part(card, "least")).to_contain_text(f"{others.min():.2f}".replace("-", "−"))  # noqa: RUF001
    expect(part(card, "most")).to_contain_text(f"{others.max():.2f}")
    brightness = shown_colours(card).sum(axis=1)
    order = np.argsort(cosines)
    assert (np.diff(brightness[order]) >= -3).all(), "more alike must be brighter"
    card.mouse.move(0, 0)
    expect(part(card, "readout")).to_contain_text("Point at or tap a patch")
    expect(part(card, "shares")).to_be_visible()


def test_a_click_keeps_a_patch_until_the_next_or_escape(card: Page) -> None:
    grid, readout = part(card, "grid"), part(card, "readout")
    grid.click(position=middle(card, 9))
    card.mouse.move(0, 0)
    expect(readout).to_contain_text("Patch in row 2, column 2.")
    grid.hover(position=middle(card, 20))
    expect(readout).to_contain_text("Patch in row 3, column 5.")
    card.mouse.move(0, 0)
    expect(readout).to_contain_text("Patch in row 2, column 2.")
    part(card, "back").click()
    expect(readout).to_contain_text("Point at or tap a patch")
    expect(grid).to_be_focused()
    grid.click(position=middle(card, 9))
    grid.click(position=middle(card, 9))
    card.mouse.move(0, 0)
    expect(part(card, "heat")).to_be_hidden()
    grid.click(position=middle(card, 30))
    card.mouse.move(0, 0)
    card.keyboard.press("Escape")
    expect(part(card, "heat")).to_be_hidden()


def test_keys_go_from_patch_to_patch(card: Page, service: str) -> None:
    grid, readout = part(card, "grid"), part(card, "readout")
    grid.focus()
    steps = [
        ("ArrowRight", "row 5, column 5"), ("ArrowLeft", "row 5, column 4"), ("ArrowUp", "row 4, column 4"),
        ("Home", "row 4, column 1"), ("ArrowLeft", "row 4, column 1"), ("End", "row 4, column 8"),
        ("ArrowDown", "row 5, column 8"),
    ]  # fmt: skip
    for key, where in steps:
        card.keyboard.press(key)
        expect(readout).to_contain_text(f"Patch in {where}.")
    cosines = likeness(vectors_of(service, sample()) - vectors_of(service, grey()), 39)
    expect(readout).to_have_text(said_of(cosines, 39))
    expect(readout).to_have_role("status")
    card.keyboard.press("Escape")
    expect(readout).to_contain_text("Point at or tap a patch")
    card.keyboard.press("Enter")
    expect(readout).to_contain_text("Patch in row 5, column 5.")


def test_a_tap_keeps_a_patch(open_page: OpenPage) -> None:
    page = open_page(width=390, touch=True)
    take_sample(page)
    showing(page)
    part(page, "grid").tap(position=middle(page, 12))
    expect(part(page, "readout")).to_contain_text("Patch in row 2, column 5.")
    part(page, "back").tap()
    expect(part(page, "heat")).to_be_hidden()


def test_another_photo_begins_with_its_colours(card: Page) -> None:
    part(card, "grid").click(position=middle(card, 9))
    give_photos(card, SAMPLES / "rocket.jpg")
    expect(part(card, "heat")).to_be_hidden()
    expect(part(card, "shares")).to_be_visible()


def test_the_photo_below_is_what_the_network_sees(card: Page) -> None:
    """Down to how an image is made smaller, which browsers do in their own ways: hence the tolerance."""
    part(card, "opacity").focus()
    card.keyboard.press("Home")
    seen = pixels_of(card)
    image = Image.open(SAMPLES / "cat.jpg")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    wanted = image.convert("RGB").resize(seen.shape[1::-1], box=(left, top, left + side, top + side))
    assert np.abs(seen - np.asarray(wanted, dtype=float)).mean() < 4


def test_colours_for_all_photos(card: Page, service: str) -> None:
    expect(part(card, "shared-label")).to_be_hidden()
    give_photos(card, SAMPLES / "rocket.jpg")
    expect(part(card, "shares-text")).to_contain_text("this photo’s patches")  # noqa: RUF001
    part(card, "shared").check()
    expect(part(card, "shares-text")).to_contain_text("patches of 2 photos")
    plain = vectors_of(service, grey())
    cat, rocket = (vectors_of(service, sample(name)) - plain for name in ("cat", "rocket"))
    both = np.concatenate([rocket, cat])
    assert np.abs(shown_colours(card) - colours(rocket, both)[0]).max() <= 2
    part(card, "shared").uncheck()
    expect(part(card, "shares-text")).to_contain_text("this photo’s patches")  # noqa: RUF001
    assert np.abs(shown_colours(card) - colours(rocket, rocket)[0]).max() <= 2


def test_colours_for_all_photos_are_seen_at_once(card: Page) -> None:
    """A patch that was pinned is let go; and they are others when a photo goes."""
    give_photos(card, SAMPLES / "rocket.jpg")
    give_photos(card, SAMPLES / "coffee.jpg")
    showing(card)
    part(card, "grid").click(position=middle(card, 9))
    part(card, "shared").check()
    expect(part(card, "heat")).to_be_hidden()
    expect(part(card, "shares-text")).to_contain_text("patches of 3 photos")
    card.get_by_role("button", name="Remove cat.jpg").click()
    expect(part(card, "shares-text")).to_contain_text("patches of 2 photos")


def test_a_photo_that_cannot_be_read_is_left_out_of_the_colours_for_all(card: Page, complaints: Complaints) -> None:
    complaints.expected.append("400 (Bad Request)")
    give_photos(card, damaged_photo())
    give_photos(card, SAMPLES / "rocket.jpg")
    showing(card)
    part(card, "shared").check()
    expect(part(card, "shares-text")).to_contain_text("patches of 2 photos")
    expect(card.locator("#features .error")).to_be_hidden()


def test_a_photo_that_only_the_service_can_read(page: Page, service: str) -> None:
    """Browsers do not know TIFF."""
    data = io.BytesIO()
    Image.open(SAMPLES / "cat.jpg").save(data, "TIFF")
    give_photos(page, {"name": "cat.tif", "mimeType": "image/tiff", "buffer": data.getvalue()})
    showing(page)
    part(page, "opacity").fill("0")
    answer = httpx.post(f"{service}reconstruct", content=data.getvalue(), trust_env=False).json()
    original = Image.open(io.BytesIO(b64decode(answer["images"]["original"])))
    seen = pixels_of(page)
    wanted = original.resize(seen.shape[1::-1], Image.Resampling.BILINEAR)
    assert np.abs(seen - np.asarray(wanted, dtype=float)).mean() < 4


def test_a_broken_photo_is_told_in_words(card: Page, complaints: Complaints) -> None:
    complaints.expected.append("400 (Bad Request)")
    give_photos(card, damaged_photo())
    expect(card.locator("#features .error")).to_contain_text("is truncated or corrupt")
    expect(part(card, "stage")).to_be_hidden()  # else another photo's colours would stand there
    take_sample(card, "A rocket")
    showing(card)
    expect(card.locator("#features .error")).to_be_hidden()
    expect(part(card, "stage")).to_be_visible()


def test_a_service_that_is_gone_is_told_in_words(open_page: OpenPage, complaints: Complaints) -> None:
    complaints.expected.append("ERR_CONNECTION_REFUSED")
    with running_service() as url:
        page = open_page(url)
        take_sample(page)
        showing(page)
    part(page, "place").uncheck()
    expect(page.locator("#features .error")).to_contain_text("cannot be reached")
    expect(part(page, "stage")).to_be_visible()  # what is there is still this photo's


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    take_sample(page, "A rocket")
    showing(page)
    screenshot(page, f"features-{width}-{scheme}", "features")
    part(page, "grid").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    expect(part(page, "heat")).to_be_visible()
    screenshot(page, f"features-likeness-{width}-{scheme}", "features")
    assert not overflows(page)
    assert violations(page, "features") == []


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Grey pictures of 24 x 48 pixels in patches of 4, cut from 30 x 80, and nothing but an encoder; untrained."""
    import torch

    from export.config import ExportConfig
    from export.pipeline import export_run
    from mae import MAEConfig, MaskedAutoencoder

    torch.manual_seed(0)
    config = MAEConfig(
        image_size=(24, 48), patch_size=4, channels=1, dim=48, depth=1, heads=2, decoder_dim=32, decoder_depth=1,
        decoder_heads=2, mean=(0.5,), std=(0.25,),
    )  # fmt: skip
    root = tmp_path_factory.mktemp("wide")
    run = write_run(root / "run", "pretrain", MaskedAutoencoder(config), {})
    whole = export_run(ExportConfig(run=run, out=root / "whole", precision="fp32"))
    fields = whole.manifest.model_dump(exclude={"files", "digest"})
    fields["model"]["decoder"] = None
    fields["preprocess"]["resize"] = (30, 80)
    del fields["graphs"]["decoder"]
    names = [name for name in whole.manifest.files if not name.startswith("decoder")]
    return write_bundle(root / "bundle", fields, {name: whole.path / name for name in names})


@pytest.fixture
def wide(wide_bundle: Bundle) -> Iterator[str]:
    with running_service(bundle=wide_bundle.path) as url:
        yield url


def test_another_shape_of_picture_without_a_decoder(open_page: OpenPage, wide: str, wide_bundle: Bundle) -> None:
    page = open_page(wide, width=390)
    take_sample(page)
    showing(page)
    vectors = vectors_of(wide, sample()) - vectors_of(wide, grey(24, 48))
    assert np.abs(shown_colours(page, (6, 12)) - colours(vectors, vectors)[0]).max() <= 2
    part(page, "opacity").fill("0")
    seen = pixels_of(page)
    assert seen.shape[1] == pytest.approx(2 * seen.shape[0], rel=0.01)
    cut = preprocess(sample(), wide_bundle.manifest.preprocess, channels=1)
    small = Image.fromarray(seen).resize((48, 24), Image.Resampling.BOX)
    assert np.abs(np.asarray(small, dtype=float) - cut).mean() < 8
    part(page, "grid").focus()
    for key in ("Enter", "End", "ArrowDown", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    expect(part(page, "readout")).to_have_text(said_of(likeness(vectors, 71), 71, columns=12))
    part(page, "opacity").fill("70")
    screenshot(page, "features-wide", "features")


def test_without_a_decoder_a_photo_that_browsers_cannot_read_has_colours_alone(open_page: OpenPage, wide: str) -> None:
    page = open_page(wide)
    data = io.BytesIO()
    Image.open(SAMPLES / "cat.jpg").save(data, "TIFF")
    give_photos(page, {"name": "cat.tif", "mimeType": "image/tiff", "buffer": data.getvalue()})
    showing(page)
    covered = shown_colours(page, (6, 12))
    part(page, "opacity").fill("0")
    np.testing.assert_array_equal(centres(pixels_of(page), (6, 12)), covered)


def test_a_plain_picture_has_nothing_to_tell(page: Page) -> None:
    give_photos(page, {"name": "grey.png", "mimeType": "image/png", "buffer": grey()})
    page.locator("#features").scroll_into_view_if_needed()
    expect(part(page, "shares-text")).to_contain_text("The patches do not differ")
    assert (shown_colours(page) == 128).all()
