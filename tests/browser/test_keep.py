"""Fewer patches: which ones, against bundle.masking; how alike and how fast, against the service's own answers."""

from __future__ import annotations

import base64
import io
import re
import statistics
from collections import defaultdict
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Request, Response, Route, expect

from bundle.masking import keep_ids
from tests.browser.bundles import without_decoder
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

CAT = SAMPLES / "cat.jpg"
SPACE = "\N{NO-BREAK SPACE}"


def card(page: Page) -> Locator:
    return page.locator("#keep")


def part(page: Page, name: str) -> Locator:
    return page.locator(f"#keep [data-part={name}]")


def ready(page: Page) -> Page:
    """The card with the cat, embedded from half of its patches."""
    take_sample(page)
    card(page).scroll_into_view_if_needed()
    expect(part(page, "said")).to_contain_text("alike")
    return page


@pytest.fixture
def cat(page: Page) -> Page:
    return ready(page)


@pytest.fixture
def measured(cat: Page) -> Page:
    """The card once it has measured."""
    part(cat, "measure").click()
    expect(part(cat, "measure")).to_have_text("Measure again", timeout=60_000)
    return cat


def alike(service: str, keep: float) -> float:
    """The cosine of the cat from a part of its patches with that from all of them."""
    vectors = []
    for each in (keep, 1):
        answer = httpx.post(f"{service}embed", content=CAT.read_bytes(), params={"keep": each}, trust_env=False)
        vectors.append(np.array(answer.raise_for_status().json()["embeddings"][0]))
    return float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))


def test_the_patches_are_those_that_the_service_keeps(page: Page) -> None:
    """Of grids of many shapes, for every percent."""
    counts = [*range(1, 18), 36, 49, 64, 96, 100, 196, 225, 288, 576, 1023, 1024]
    got = page.evaluate(
        """async (counts) => {
          const { keptIds } = await import("/static/kept.js");
          return counts.map((count) => Array.from({ length: 100 }, (_, i) => keptIds(count, (i + 1) / 100)));
        }""",
        counts,
    )
    for count, rows in zip(counts, got, strict=True):
        for percent, ids in enumerate(rows, 1):
            assert ids == keep_ids(count, percent / 100).tolist(), (count, percent)


def pixels(png: str) -> NDArray[np.float64]:
    """[H, W, 3] of a PNG in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), dtype=np.float64)


def patch_colours(page: Page) -> NDArray[np.float64]:
    """[8, 8, 3]: the mean colour of each patch on the canvas, its edges left out."""
    canvas = part(page, "picture")
    side = canvas.evaluate("(canvas) => canvas.width")
    url = canvas.evaluate("(canvas) => canvas.toDataURL()")
    picture = pixels(url.split(",")[1])
    inner = [slice(int(i * side / 8) + 3, int((i + 1) * side / 8) - 3) for i in range(8)]
    return np.array([[picture[rows, columns].mean((0, 1)) for columns in inner] for rows in inner])


def original_colours(service: str) -> NDArray[np.float64]:
    """[8, 8, 3]: the mean colour of each patch of the photo as the network gets it."""
    answer = httpx.post(f"{service}reconstruct", content=CAT.read_bytes(), trust_env=False).raise_for_status()
    colours: NDArray[np.float64] = pixels(answer.json()["images"]["original"]).reshape(8, 8, 8, 8, 3).mean((1, 3))
    return colours


def test_what_is_not_seen_is_veiled(cat: Page, service: str) -> None:
    expect(part(cat, "picture")).to_have_attribute("aria-label", re.compile("Seen are 32 of 64 patches"))
    original = original_colours(service)
    white = np.full(3, 255.0)  # the card, in the light theme
    expected = 0.12 * original + 0.88 * white
    seen = np.unravel_index(keep_ids(64, 0.5), (8, 8))
    expected[seen] = original[seen]
    assert np.abs(patch_colours(cat) - expected).mean() < 6
    assert np.abs(patch_colours(cat) - expected).max() < 25  # the browser scales otherwise, and edges are left out


@pytest.mark.parametrize(("key", "percent", "patches"), [("End", 100, 64), ("Home", 10, 6), ("ArrowRight", 55, 35)])
def test_keys_move_the_slider(cat: Page, service: str, key: str, percent: int, patches: int) -> None:
    part(cat, "keep").press(key)
    expect(part(cat, "keep-text")).to_have_text(f"{percent}{SPACE}%")
    expect(part(cat, "said")).to_contain_text(f"({patches} of 64)")
    if percent < 100:
        expect(part(cat, "said")).to_contain_text(f"{alike(service, percent / 100):.3f} alike, not timed yet")
    expect(part(cat, "picture-text")).to_contain_text(f"{patches} of 64")
    curl = card(cat).locator("pre").first
    expect(curl).to_contain_text(f"keep={percent / 100:g}")


class Timed:
    """The calls past the cache, as they go."""

    def __init__(self, page: Page) -> None:
        self.infer: dict[float, list[float]] = defaultdict(list)  # keep -> milliseconds
        self.most_at_once = self._under_way = 0
        page.on("request", self._begins)
        page.on("response", self._ends)  # a request's end may be told after the next one's begin

    @staticmethod
    def _mine(request: Request) -> bool:
        return request.headers.get("cache-control") == "no-store"

    def _begins(self, request: Request) -> None:
        if self._mine(request):
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)

    def _ends(self, response: Response) -> None:
        if not self._mine(response.request):
            return
        self._under_way -= 1
        stages = dict(stage.strip().split(";dur=") for stage in response.headers["server-timing"].split(","))
        self.infer[float(parse_qs(urlsplit(response.url).query)["keep"][0])].append(float(stages["infer"]))


def figures(page: Page) -> dict[float, list[str]]:
    """keep -> its row of the table: patches, cosine, milliseconds, speed."""
    rows = part(page, "rows").locator("tr").all()
    keeps = [float(row.locator("th").inner_text().rstrip("%")) / 100 for row in rows]
    return {keep: row.locator("td").all_inner_texts() for keep, row in zip(keeps, rows, strict=True)}


def test_measuring_shows_medians_one_call_after_the_other(cat: Page, service: str) -> None:
    timed = Timed(cat)
    part(cat, "keep").press("PageUp")
    keep = float(part(cat, "keep").input_value()) / 100
    expect(part(cat, "said")).to_contain_text("not timed yet")
    part(cat, "measure").press("Enter")
    expect(part(cat, "measure")).to_have_text("Measure again", timeout=60_000)
    assert timed.most_at_once == 1
    assert sorted(timed.infer) == sorted([0.1, 0.25, 0.5, keep, 0.75, 1])
    assert {len(times) for times in timed.infer.values()} == {4}  # the first is not counted
    medians = {each: statistics.median(times[1:]) for each, times in timed.infer.items()}
    rows = figures(cat)
    assert sorted(rows) == sorted(medians)
    for each, (patches, cosine, ms, speed) in rows.items():
        assert int(patches) == len(keep_ids(64, each))
        assert float(cosine) == pytest.approx(alike(service, each), abs=0.002)
        assert float(ms) == pytest.approx(medians[each], abs=0.0051)
        assert float(speed[:-1]) == pytest.approx(medians[1] / medians[each], rel=0.01, abs=0.0051)
    faster = medians[1] / medians[keep]
    said = f"{faster:.1f} times as fast here" if faster >= 1.05 else "no faster here"
    expect(part(cat, "said")).to_contain_text(said)
    points = ", ".join(f"{row[1]} at {100 * each:.0f}{SPACE}% seen" for each, row in sorted(rows.items()))
    expect(part(cat, "alike-chart")).to_have_attribute("aria-label", f"Cosine with the vector of all patches: {points}")


def test_the_chosen_value_is_marked(measured: Page) -> None:
    expect(card(measured).locator("tr.chosen th")).to_have_text(f"50{SPACE}%")
    expect(part(measured, "time-chart").locator("circle.chosen")).to_have_count(1)
    part(measured, "keep").press("End")
    expect(card(measured).locator("tr.chosen th")).to_have_text(f"100{SPACE}%")


def test_measuring_can_be_stopped(cat: Page) -> None:
    timed = Timed(cat)
    part(cat, "measure").evaluate("(button) => { button.click(); button.click(); }")
    expect(part(cat, "measure")).to_have_text("Measure alikeness and time")
    expect(part(cat, "charts")).to_be_hidden()
    expect(card(cat).get_by_role("alert")).to_be_hidden()
    assert sum(map(len, timed.infer.values())) <= 1


def test_another_photo_begins_anew(measured: Page) -> None:
    said = part(measured, "said").inner_text()
    take_sample(measured, "Galaxies")
    card(measured).scroll_into_view_if_needed()
    expect(part(measured, "charts")).to_be_hidden()
    expect(part(measured, "said")).to_contain_text("not timed yet")
    assert part(measured, "said").inner_text() != said


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that cannot reconstruct."""
    return without_decoder(tmp_path_factory.mktemp("bare") / "bundle")


def test_without_a_decoder_and_then_without_a_service(
    open_page: OpenPage, service: str, bare: Path, complaints: Complaints
) -> None:
    complaints.expected += ["ERR_CONNECTION_REFUSED", "503"]  # as long as it stops, and then
    with running_service(bundle=bare) as url:
        page = ready(open_page(url))
        part(page, "keep").press("End")
        expect(part(page, "picture-text")).to_contain_text("64 of 64")
        assert np.abs(patch_colours(page) - original_colours(service)).mean() < 6
    part(page, "measure").click()
    expect(card(page).get_by_role("alert")).to_contain_text("cannot be reached")
    expect(part(page, "measure")).to_have_text("Measure alikeness and time")


def test_a_proxy_that_drops_the_timings_is_told(cat: Page) -> None:
    def untimed(route: Route) -> None:
        answer = route.fetch()
        headers = {name: value for name, value in answer.headers.items() if name != "server-timing"}
        route.fulfill(response=answer, headers=headers)

    cat.route("**/embed?*", untimed)
    part(cat, "measure").click()
    expect(card(cat).get_by_role("alert")).to_contain_text("drops Server-Timing")
    expect(part(cat, "charts")).to_be_hidden()


def test_a_damaged_photo_is_told_in_words(page: Page, complaints: Complaints) -> None:
    complaints.expected.append("400")
    give_photos(page, damaged_photo())
    card(page).scroll_into_view_if_needed()
    expect(card(page).get_by_role("alert")).to_contain_text("damaged")
    expect(part(page, "picture")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, width: int, scheme: Scheme) -> None:
    page = ready(open_page(width=width, scheme=scheme))
    part(page, "measure").click()
    expect(part(page, "measure")).to_have_text("Measure again", timeout=60_000)
    screenshot(page, f"keep-{width}-{scheme}", "keep")
    assert not overflows(page)
    assert violations(page, "keep") == []
