"""Which photos are alike: the cosines on the page against numpy's of the service's own vectors."""

from __future__ import annotations

from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import FilePayload, Locator, Page, Request, Route, expect

from tests.browser.conftest import (
    SAMPLES,
    Complaints,
    OpenPage,
    Scheme,
    overflows,
    running_service,
    screenshot,
    take_sample,
    violations,
)
from tests.browser.proxy import between
from tests.service.helpers import eventually, make_bundle, photo, serving_fake

FILES = [SAMPLES / f"{name}.jpg" for name in ("cat", "cat-closer", "coffee", "astronaut", "rocket", "galaxies")]
ROUNDING = 0.00051  # of three digits


def card(page: Page) -> Locator:
    return page.locator("#alike")


def part(page: Page, name: str) -> Locator:
    return page.locator(f"#alike [data-part={name}]")


def cell(page: Page, row: int, column: int) -> Locator:
    """-1: the edge, where the photos are."""
    return card(page).locator(f'[data-row="{row}"][data-column="{column}"]')


def give(page: Page, files: Sequence[Path | tuple[str, bytes]]) -> None:
    """Choose files of these paths, or of these names and contents."""
    named = [(file.name, file.read_bytes()) if isinstance(file, Path) else file for file in files]
    payloads: list[FilePayload] = [
        {"name": name, "mimeType": f"image/{name.split('.')[-1]}", "buffer": content} for name, content in named
    ]
    page.locator("#intake input[type=file]").first.set_input_files(payloads)


def requests(page: Page) -> list[str]:
    """The addresses that the card asks from now on about several photos, which no other card does."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if of_several(request) else None)
    return asked


def of_several(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("multipart/form-data")


def see(page: Page) -> None:
    """Bring the card on the screen: it waits until then."""
    card(page).scroll_into_view_if_needed()


def corner(element: Locator) -> tuple[float, float]:
    """Its left and its top, in pixels."""
    box = element.bounding_box()
    assert box is not None
    return box["x"], box["y"]


def cosines(service: str, files: Sequence[Path], pooling: str = "mean") -> NDArray[np.float64]:
    """[N, N], of vectors asked for one by one."""
    rows = []
    for file in files:
        answer = httpx.post(f"{service}embed", content=file.read_bytes(), params={"pooling": pooling}, trust_env=False)
        rows.append(answer.raise_for_status().json()["embeddings"][0])
    vectors = np.array(rows, dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine: NDArray[np.float64] = vectors @ vectors.T
    return cosine


def shown(page: Page) -> NDArray[np.float64]:
    """[N, N]: the numbers in the cells, 1 where there is none."""
    rows = card(page).locator("tbody tr")
    texts = [row.locator("td").all_inner_texts() for row in rows.all()]
    return np.array([[float(text.replace("−", "-") or 1) for text in row] for row in texts])  # noqa: RUF001


@pytest.fixture
def six(page: Page) -> Page:
    """The page with all samples, compared."""
    give(page, FILES)
    see(page)
    expect(cell(page, 5, 4)).to_be_visible()
    return page


def test_one_photo_invites_to_add_another(page: Page, service: str) -> None:
    take_sample(page)
    see(page)
    expect(part(page, "invitation")).to_be_visible()
    expect(part(page, "full")).to_be_hidden()
    expect(card(page).get_by_role("button", name="Add: A cat", exact=True)).to_be_hidden()
    other = card(page).get_by_role("button", name="Add: A cup of coffee")
    other.focus()
    other.press("Enter")
    expect(part(page, "pair-value")).to_have_text(f"{cosines(service, [FILES[0], FILES[2]])[0, 1]:.3f}")
    expect(part(page, "pair-text")).to_have_text("cat.jpg and coffee.jpg.")
    expect(part(page, "range")).to_contain_text("Add a third photo")
    expect(cell(page, 0, 1)).to_be_focused()  # what had the focus is gone


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_cells_are_the_cosines_of_the_services_vectors(six: Page, service: str, pooling: str) -> None:
    part(six, "pooling").select_option(pooling)
    expected = cosines(service, FILES, pooling)
    expect(cell(six, 0, 5)).to_have_text(f"{expected[0, 5]:.3f}")
    np.testing.assert_allclose(shown(six), expected, atol=ROUNDING)
    least, most = (f"{value:.3f}" for value in (expected.min(), np.sort(expected, axis=None)[-7]))
    expect(part(six, "range")).to_contain_text(f"between {least} and {most}")
    expect(part(six, "least")).to_contain_text(least)
    expect(part(six, "most")).to_contain_text(most)


def test_nearest_pairs_and_neighbours_are_in_order(six: Page, service: str) -> None:
    expected = cosines(service, FILES)
    upper = expected[np.triu_indices(len(FILES), 1)]
    pairs = part(six, "pairs").locator("b").all_inner_texts()
    np.testing.assert_allclose([float(text) for text in pairs], np.sort(upper)[::-1][:5], atol=ROUNDING)
    cell(six, -1, 3).click()  # the astronaut's picture
    expect(part(six, "neighbours-head")).to_have_text("Nearest to astronaut.jpg")
    order = [index for index in np.argsort(-expected[3]) if index != 3]
    images = part(six, "neighbours").locator("img")
    assert [image.get_attribute("alt") for image in images.all()] == [FILES[index].name for index in order]


def test_the_nearest_is_one_click_away(six: Page, service: str) -> None:
    nearest = int(np.argsort(-cosines(service, FILES)[0])[1])
    cell(six, 0, -1).click()
    part(six, "neighbours").get_by_role("button").first.press("Enter")
    expect(part(six, "neighbours-head")).to_have_text(f"Nearest to {FILES[nearest].name}")
    expect(part(six, "neighbours").get_by_role("button").first).to_be_focused()


def test_a_cell_pointed_at_shows_both_photos(six: Page, service: str) -> None:
    expected = cosines(service, FILES)
    cell(six, 4, 2).hover()
    expect(part(six, "pair-value")).to_have_text(f"{expected[4, 2]:.3f}")
    expect(part(six, "pair-text")).to_contain_text("rocket.jpg and coffee.jpg")
    images = part(six, "pair-pictures").locator("img")
    assert [image.get_attribute("alt") for image in images.all()] == ["rocket.jpg", "coffee.jpg"]
    place = int((expected[np.triu_indices(6, 1)] > expected[4, 2] + 1e-9).sum()) + 1
    expect(part(six, "pair-text")).to_contain_text(f"{place}th most alike of 15 pairs")


def test_a_cell_tapped_shows_both_photos(open_page: OpenPage, service: str) -> None:
    page = open_page(width=390, touch=True)
    give(page, FILES[:3])
    see(page)
    cell(page, 2, 0).tap()
    expect(part(page, "pair-value")).to_have_text(f"{cosines(service, FILES[:3])[2, 0]:.3f}")
    expect(part(page, "pair-text")).to_contain_text("coffee.jpg and cat.jpg")


def test_keys_go_through_the_cells(six: Page) -> None:
    cell(six, 0, 1).focus()
    for key, row, column in [
        ("ArrowDown", 1, 1), ("ArrowRight", 1, 2), ("End", 1, 5), ("ArrowRight", 1, 5), ("Control+End", 5, 5),
        ("ArrowUp", 4, 5), ("Home", 4, 0), ("Control+Home", 0, 0), ("ArrowUp", -1, 0), ("ArrowRight", -1, 1),
        ("ArrowDown", 0, 1), ("ArrowLeft", 0, 0), ("ArrowDown", 1, 0),
    ]:  # fmt: skip
        six.keyboard.press(key)
        expect(cell(six, row, column)).to_be_focused()
        assert card(six).locator('table [tabindex="0"]').count() == 1
    expect(part(six, "pair-text")).to_contain_text("cat-closer.jpg and cat.jpg")
    six.keyboard.press("ArrowLeft")
    six.keyboard.press("Enter")
    expect(part(six, "neighbours-head")).to_have_text("Nearest to cat-closer.jpg")
    expect(cell(six, 1, -1)).to_have_attribute("aria-pressed", "true")
    expect(cell(six, 1, -1)).to_be_focused()


def test_looking_at_another_photo_does_not_begin_anew(page: Page) -> None:
    """Neither what was answered nor what is still asked."""
    held: list[Route] = []
    page.route("**/embed?*", lambda route: held.append(route) if of_several(route.request) else route.continue_())
    asked = requests(page)
    give(page, FILES[:3])
    see(page)
    eventually(lambda: page.title() and held)  # whatever asks Playwright lets it run the route's handler
    page.locator("#tray .thumbnail").nth(2).click()
    held.pop().continue_()
    expect(card(page).locator("tbody tr")).to_have_count(3)
    expect(part(page, "neighbours-head")).to_have_text("Nearest to coffee.jpg")
    page.evaluate(
        """() => {
          const card = document.querySelector("#alike");
          window.busied = 0;
          new MutationObserver(() => { window.busied += card.classList.contains("busy"); })
            .observe(card, { attributeFilter: ["class"] });
        }"""
    )
    page.locator("#tray .thumbnail").nth(1).click()
    expect(part(page, "neighbours-head")).to_have_text("Nearest to cat-closer.jpg")
    expect(cell(page, 1, -1)).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("window.busied") == 0
    assert len(asked) == 1
    give(page, FILES[3:4])
    see(page)
    expect(card(page).locator("tbody tr")).to_have_count(4)  # other photos do


def test_a_sample_of_the_invitation_comes_in_as_all_do(page: Page, complaints: Complaints) -> None:
    complaints.expected.append("503")
    take_sample(page)
    see(page)
    page.route("**/samples/coffee.jpg", lambda route: route.fulfill(status=503, body="not now"))
    other = card(page).get_by_role("button", name="Add: A cup of coffee")
    other.click()
    expect(card(page).get_by_role("alert")).to_have_text("The sample cannot be fetched. Is the service still running?")
    page.unroute("**/samples/coffee.jpg")
    other.evaluate("(button) => { button.click(); button.click(); }")
    expect(page.locator("#intake .error")).to_have_text("coffee.jpg is here already.")
    expect(page.locator("#tray .thumbnail")).to_have_count(2)
    expect(card(page).get_by_role("alert")).to_be_hidden()


def test_answers_of_two_networks_are_never_compared(open_page: OpenPage, tmp_path: Path) -> None:
    """As while services are replaced one by one behind one address. The photos need two requests."""
    answers = iter("1212")  # by which service

    def target(request: BaseHTTPRequestHandler) -> str:
        mixed = request.headers.get_content_type() == "multipart/form-data" and next(answers, "1") == "2"
        return f"{(two if mixed else one).url}/"

    with (
        serving_fake(make_bundle(tmp_path / "one"), max_images=2) as (one, _),
        serving_fake(make_bundle(tmp_path / "two", pooling="cls")) as (two, _),
        between(target) as proxy,
    ):
        page = open_page(proxy.url, height=6000)  # so that every card is in sight
        asked = requests(page)
        give(page, FILES[:4])
        expect(card(page).get_by_role("alert")).to_contain_text("Another network is served now.")
        assert len(asked) == 2
        next(answers), next(answers)
        expect(card(page).locator("tbody tr")).to_have_count(4, timeout=15_000)  # it goes on by itself
        np.testing.assert_allclose(shown(page), cosines(f"{one.url}/", FILES[:4]), atol=ROUNDING)
        expect(page.locator("#replaced")).to_be_hidden()  # in the end it is the same
        page.close()


def test_what_is_known_is_not_asked_for_again(six: Page) -> None:
    asked = requests(six)
    cell(six, 3, -1).click()
    expect(part(six, "neighbours-head")).to_have_text("Nearest to astronaut.jpg")
    mean = cell(six, 0, 5).inner_text()
    part(six, "pooling").select_option("cls")
    expect(cell(six, 0, 5)).not_to_have_text(mean)
    part(six, "pooling").select_option("mean")
    expect(cell(six, 0, 5)).to_have_text(mean)
    assert [url.split("?")[1] for url in asked] == ["pooling=cls"]


def test_bad_files_are_named_and_left_out(page: Page, service: str, complaints: Complaints) -> None:
    complaints.expected.append("400")
    broken = ("broken.jpg", FILES[4].read_bytes()[:300])
    nonsense = ("nonsense.png", b"\x89PNG\r\n\x1a\n" + bytes(40))
    give(page, [FILES[0], broken, FILES[1], nonsense, FILES[2]])
    see(page)
    expect(card(page).locator("tbody tr")).to_have_count(3)
    left_out = part(page, "left-out").locator("li")
    expect(left_out).to_have_count(2)
    expect(left_out.first).to_contain_text("broken.jpg is left out")
    expect(left_out.last).to_contain_text("nonsense.png is left out")
    np.testing.assert_allclose(shown(page), cosines(service, FILES[:3]), atol=ROUNDING)


def test_limits_split_the_photos_and_name_what_is_too_large(open_page: OpenPage, complaints: Complaints) -> None:
    complaints.expected.append("413")
    with running_service(MAEVE_MAX_IMAGES="2", MAEVE_MAX_PIXELS="300000") as url:  # more than any sample has
        page = open_page(url)
        asked = requests(page)
        give(page, [*FILES, ("huge.png", photo(0, "PNG", 600, 600))])
        see(page)
        expect(card(page).locator("tbody tr")).to_have_count(6)
        np.testing.assert_allclose(shown(page), cosines(url, FILES), atol=ROUNDING)
        expect(part(page, "left-out")).to_contain_text("huge.png is left out")
        expect(card(page).get_by_role("alert")).to_be_hidden()
        assert len(asked) == 3  # and one with the huge photo alone


def test_requests_keep_to_both_limits(page: Page) -> None:
    sizes = [100, 60_000, 10, 10, 10, 10, 200_000, 5]
    batches = page.evaluate(
        """async (sizes) => {
          const { Embeddings } = await import("/static/embeddings.js");
          const photos = sizes.map((size) => ({ file: { size } }));
          const batches = new Embeddings(null, { max_images: 3, max_body_bytes: 65536 }).batches(photos);
          return batches.map((batch) => batch.map((photo) => photos.indexOf(photo)));
        }""",
        sizes,
    )
    assert [index for batch in batches for index in batch] == list(range(len(sizes)))
    assert all(len(batch) <= 3 for batch in batches)
    assert all(sum(sizes[index] for index in batch) < 65536 for batch in batches if batch != [6])
    assert [6] in batches  # the service shall say what it thinks of it


def test_what_is_known_stays_when_the_service_is_gone(open_page: OpenPage, complaints: Complaints) -> None:
    complaints.expected += ["ERR_CONNECTION_REFUSED", "503"]  # as long as it stops, and then
    with running_service() as url:
        page = open_page(url)
        give(page, FILES[:3])
        see(page)
        expect(card(page).locator("tbody tr")).to_have_count(3)
        before = shown(page)
    give(page, FILES[3:4])
    see(page)
    expect(card(page).get_by_role("alert")).to_contain_text("cannot be reached")
    np.testing.assert_array_equal(shown(page), before)


def test_a_busy_service_is_called_busy(open_page: OpenPage, complaints: Complaints) -> None:
    complaints.expected += ["401", "429"]
    with running_service(MAEVE_API_KEY="secret", MAEVE_RATE_LIMIT="0.01") as url:
        page = open_page(url)
        give(page, FILES[:2])
        page.locator("#key").fill("secret")
        page.locator("#key").press("Enter")
        httpx.post(f"{url}embed", content=FILES[0].read_bytes(), headers={"X-API-Key": "secret"}, trust_env=False)
        see(page)
        expect(card(page).get_by_role("alert")).to_contain_text("The service is busy.")


def test_sixty_four_photos_scroll_inside_the_card(open_page: OpenPage) -> None:
    page = open_page(width=390)
    give(page, [(f"{seed}.png", photo(seed)) for seed in range(64)])
    see(page)
    expect(card(page).locator("tbody tr")).to_have_count(64)
    assert not overflows(page)
    cell(page, 63, 63).scroll_into_view_if_needed()
    assert corner(cell(page, -1, 63))[1] == pytest.approx(corner(part(page, "matrix"))[1], abs=3)  # both edges stay
    assert corner(cell(page, 63, -1))[0] == pytest.approx(corner(part(page, "matrix"))[0], abs=3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    give(page, FILES)
    see(page)
    expect(card(page).locator("tbody tr")).to_have_count(6)
    screenshot(page, f"alike-{width}-{scheme}", "alike")
    assert not overflows(page)
    assert violations(page, "alike") == []


def test_its_edges_stay_below_the_links(six: Page) -> None:
    """Both stick to the top of what they are in."""
    above = six.evaluate(
        """() => {
          const edge = document.querySelector("#alike thead th:last-child");
          scrollBy({ top: edge.getBoundingClientRect().top - 5, behavior: "instant" });
          const { left, width, top } = edge.getBoundingClientRect();
          return [top, document.elementFromPoint(left + width / 2, top + 10).closest("nav")?.id];
        }"""
    )
    assert above == [pytest.approx(5, abs=1), "cards"]


def test_the_invitation_fits_and_is_accessible(open_page: OpenPage) -> None:
    page = open_page(width=390)
    take_sample(page)
    see(page)
    expect(part(page, "invitation")).to_be_visible()
    screenshot(page, "alike-invitation-390-light", "alike")
    assert not overflows(page)
    assert violations(page, "alike") == []
