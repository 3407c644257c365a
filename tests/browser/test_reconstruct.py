"""The card on which a part of a photo is hidden and guessed: what it shows, and what goes wrong."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, expect

from bundle.store import Bundle
from service.anomaly import colour
from tests.browser.conftest import (
    SAMPLES,
    Complaints,
    OpenPage,
    Scheme,
    damaged_photo,
    give_photos,
    overflows,
    screenshot,
    take_sample,
    violations,
)  # fmt: skip
from tests.browser.reading import box, figure, pixels, reconstructed
from tests.browser.reconstruct_card import DEFAULT, cell, of_card, part, shows, watch, words
from tests.service.helpers import DIM, GRAPHS, make_bundle, serving_fake, tensor


@pytest.fixture
def card(page: Page, service: str) -> Page:
    """The page with a sample's answer in the card."""
    take_sample(page)
    shows(page, reconstructed(service, **DEFAULT))
    return page


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


def test_pictures_follow_the_slider_without_flicker(card: Page, service: str) -> None:
    requests = watch(card)
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
    part(card, "seed").press("Tab")
    expect(part(card, "seed")).to_have_value("0")  # what is used


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


def test_a_damaged_photo_and_then_a_good_one(page: Page, service: str, complaints: Complaints) -> None:
    complaints.expected.append("status of 400")
    give_photos(page, damaged_photo())
    alert = page.locator("#reconstruct [role=alert]")
    expect(alert).to_contain_text("damaged")
    expect(part(page, "unit")).to_be_hidden()  # what an error means, where there is none
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
        screenshot(page, f"reconstruct-{height}x{width}", "reconstruct")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, service: str, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    take_sample(page)
    shows(page, reconstructed(service, **DEFAULT))
    part(page, "middle").click()
    expect(part(page, "masked-text")).to_contain_text("16 of 64")
    cell(page, 4, 4).focus()
    screenshot(page, f"reconstruct-{width}-{scheme}", "reconstruct")
    assert not overflows(page)
    assert violations(page, "reconstruct") == []
