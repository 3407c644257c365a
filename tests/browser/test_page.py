"""The page at /, as a visitor sees it: its look, its start, its key, and what it does while the service is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from bundle.store import Bundle
from runtime.fake import FakeRuntime
from service.app import Service, make_app
from service.keys import hashed
from service.metrics import Metrics
from service.opening import open_bundle, start_engine
from service.settings import Settings
from tests.browser.conftest import (
    Complaints,
    OpenPage,
    Scheme,
    overflows,
    running_service,
    screenshot,
    take_sample,
    violations,
)  # fmt: skip
from tests.browser.reconstruct_card import expect_answered, part
from tests.service.helpers import Served, eventually, free_port, make_bundle, serving

KEY = "maeve_for_the_tests"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    expect(page.locator("#details")).to_be_visible()
    screenshot(page, f"start-{width}-{scheme}")
    assert not overflows(page)
    assert violations(page) == []
    take_sample(page)
    expect_answered(page)
    take_sample(page, "A rocket")
    expect_answered(page)
    for details in page.locator("#details, #reconstruct .calls").all():
        details.locator("summary").click()
    screenshot(page, f"page-{width}-{scheme}")
    assert not overflows(page)
    assert violations(page) == []


def test_the_first_thing_is_painted_soon(page: Page) -> None:
    entries = "performance.getEntriesByType('paint').map(each => [each.name, each.startTime])"
    eventually(lambda: len(page.evaluate(entries)) == 2)
    paints = dict(page.evaluate(entries))
    print({name: f"{ms:.0f} ms" for name, ms in paints.items()})
    assert paints["first-contentful-paint"] > 0


def test_the_header_says_what_is_served(page: Page, service: str) -> None:
    info = httpx.get(f"{service}info", trust_env=False).json()
    height, width = info["model"]["image_size"]
    expect(page.locator("#served")).to_contain_text(info["name"])
    expect(page.locator("#served")).to_contain_text(f"{width} \N{MULTIPLICATION SIGN} {height} pixels")
    page.get_by_text("What is served", exact=True).press("Enter")
    expect(page.locator("#details dl")).to_contain_text(f"vectors of {info['model']['dim']} values")
    expect(page.locator("#details dl")).to_contain_text(info["digest"][:12])


def test_the_tabulator_reaches_the_photos_first(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the photos")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#drop input")).to_be_focused()


def test_links_lead_to_the_cards_that_there_are(page: Page) -> None:
    take_sample(page)
    expect_answered(page)
    shown = page.locator("section.card:visible")
    links = page.locator("#cards a:visible")
    led = [link.get_attribute("href") for link in links.all()]
    assert led == [f"#{card.get_attribute('id')}" for card in shown.all()]
    page.get_by_role("link", name="Labels").click()
    expect(page.locator("#classify")).to_be_in_viewport(ratio=0.5)
    expect(page.locator("#cards")).to_be_in_viewport(ratio=1)  # it stays in sight


def test_times_are_drawn_and_said(page: Page) -> None:
    take_sample(page)
    expect_answered(page)
    timing = page.locator("#reconstruct .timing")
    seed = page.locator("#reconstruct [data-part=seed]")
    seed.fill("4711")  # that no other test asks for, so that it is computed
    expect(timing).to_contain_text("model")
    expect(timing).to_contain_text("ms in the service")
    expect(timing.locator(".bar [data-stage=infer]")).to_be_visible()
    seed.fill("4712")
    expect(timing).to_contain_text("model")
    expect_answered(page)
    seed.fill("4711")
    expect(timing).to_contain_text("From the cache")
    expect(timing.locator("[data-stage=infer]")).to_have_count(0)


def test_taking_away_another_photo_asks_for_nothing(page: Page) -> None:
    take_sample(page)
    take_sample(page, "A rocket")
    expect_answered(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "reconstruct" in request.url else None)
    page.get_by_role("button", name="Remove cat.jpg").click()
    expect(page.locator("#chosen")).to_have_text("rocket.jpg")
    expect_answered(page)
    assert asked == []


_HOLD = """
  window.held = null; // while an object: card -> the entries that its observer has not told yet
  window.IntersectionObserver = class extends IntersectionObserver {
    constructor(callback, options) {
      super((entries) => {
        if (held) (held[entries[0].target.id] ??= { callback, entries: [] }).entries.push(...entries);
        else callback(entries);
      }, options);
    }
  };
"""


def test_a_card_that_came_into_sight_while_the_browser_was_busy(open_page: OpenPage) -> None:
    """Then an observer is told at once that the card was out of sight, and that it is in sight."""
    page = open_page(before=lambda page: page.add_init_script(_HOLD))
    page.evaluate("held = {}")
    take_sample(page)
    eventually(lambda: page.evaluate("held.classify?.entries.map(each => each.isIntersecting)") == [False])
    page.locator("#classify").scroll_into_view_if_needed()
    eventually(lambda: page.evaluate("held.classify.entries.map(each => each.isIntersecting)") == [False, True])
    page.evaluate("held.classify.callback(held.classify.entries)")
    expect(page.locator("#classify [data-part=labels]")).to_contain_text("%")


def test_a_bundle_without_decoder_and_classifier(open_page: OpenPage, encoder_only: str) -> None:
    page = open_page(encoder_only)
    take_sample(page)
    expect(page.locator("#embedding [data-part=text]")).to_be_visible()
    expect(page.locator("#reconstruct")).to_be_hidden()
    expect(page.locator("#classify")).to_be_hidden()
    page.get_by_text("What is served", exact=True).click()
    expect(page.locator("#details")).to_contain_text("without a decoder, so hidden patches cannot be reconstructed")
    expect(page.locator("#details")).to_contain_text("without a classifier, so photos get no labels")


@pytest.fixture(scope="module")
def encoder_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bundle = make_bundle(tmp_path_factory.mktemp("page") / "encoder", "encoder")
    with _serving(bundle) as (served, app):
        _adopt(app)
        yield f"{served.url}/"


@asynccontextmanager
async def _until_told(app: Service, bundle: Bundle, settings: Settings) -> AsyncIterator[None]:
    """Serve without an engine until `app.state.begin` is set."""
    app.state.begin, app.state.loop = asyncio.Event(), asyncio.get_running_loop()

    async def begin() -> None:
        await app.state.begin.wait()
        opened = open_bundle(bundle, settings, FakeRuntime(bundle))
        await app.adopt(await start_engine(opened, settings, app.state.metrics))

    task = asyncio.create_task(begin())
    try:
        yield
    finally:
        task.cancel()
        await app.end()


@contextmanager
def _serving(bundle: Bundle) -> Iterator[tuple[Served, Service]]:
    """A service that listens and is still starting, as every HTTP process does until its device is there."""
    settings = Settings()
    app = make_app(settings, Metrics(), lambda app: _until_told(app, bundle, settings))
    with serving(app) as served:
        yield served, app


def _adopt(app: Service) -> None:
    app.state.loop.call_soon_threadsafe(app.state.begin.set)


def test_a_service_that_starts_is_waited_for(
    open_page: OpenPage, complaints: Complaints, tmp_path_factory: pytest.TempPathFactory
) -> None:
    complaints.expected.append("503")
    with _serving(make_bundle(tmp_path_factory.mktemp("page") / "whole")) as (served, app):
        page = open_page(f"{served.url}/")
        expect(page.locator("#trouble")).to_contain_text(
            "The service is not ready. The service says: the service is starting."
        )
        screenshot(page, "starting")
        assert violations(page) == []
        _adopt(app)
        expect(page.locator("#served")).to_contain_text("fake sees 32")
        expect(page.locator("#trouble")).to_be_hidden()


def test_a_start_without_an_answer_can_be_tried_again(
    open_page: OpenPage, service: str, complaints: Complaints
) -> None:
    complaints.expected.append("ERR_FAILED")
    cut = True

    def answer(route: Route) -> None:
        route.abort() if cut else route.continue_()

    page = open_page(service, before=lambda page: page.route("**/info", answer))
    expect(page.locator("#trouble .error")).to_have_text("The service cannot be reached. Is it still running?")
    cut = False
    page.get_by_role("button", name="Try again").first.click()
    expect(page.locator("#served")).to_contain_text("maeve-tiny-64")


def test_a_service_that_is_gone_is_told_and_comes_back(open_page: OpenPage, complaints: Complaints) -> None:
    complaints.expected.append("ERR_CONNECTION_REFUSED")
    port = free_port()
    with running_service(port=port) as url:
        page = open_page(url)
        take_sample(page)
        expect_answered(page)
    page.locator("#reconstruct [data-part=seed]").fill("5")
    error = page.locator("#reconstruct .error")
    expect(error).to_contain_text("The service cannot be reached. Is it still running? This goes on by itself")
    expect(page.locator("#reconstruct").get_by_role("button", name="Try again")).to_be_visible()
    expect(part(page, "reconstruction")).to_be_visible()  # of the same photo
    screenshot(page, "gone")
    assert violations(page) == []
    take_sample(page, "A rocket")
    expect(page.locator("#intake .error")).to_contain_text("The sample cannot be fetched.")
    with running_service(port=port):
        expect(error).to_be_hidden(timeout=15_000)
        expect_answered(page)


def test_who_comes_back_to_the_page_does_not_wait(open_page: OpenPage, complaints: Complaints) -> None:
    """The clock stands still, so that nothing comes by waiting."""
    complaints.expected.append("ERR_INTERNET_DISCONNECTED")
    page = open_page(before=lambda page: page.clock.install())
    take_sample(page)
    expect_answered(page)
    page.context.set_offline(True)
    page.locator("#reconstruct [data-part=seed]").fill("5")
    error = page.locator("#reconstruct .error")
    expect(error).to_contain_text("cannot be reached")
    page.clock.pause_at(page.evaluate("Date.now()") + 1)
    page.context.set_offline(False)
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(error).to_be_hidden()
    expect_answered(page)


def test_too_many_requests_are_told_and_asked_again(open_page: OpenPage, complaints: Complaints) -> None:
    complaints.expected.append("429")
    entry = f"page:{hashed('page', KEY).digest.hex()}:0.5"
    with running_service(MAEVE_API_KEYS=entry) as url:
        complaints.expected.append("401")
        page = open_page(url)
        take_sample(page)
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        busy = page.locator("section.card .error", has_text="The service is busy.").first
        expect(busy).to_contain_text("This goes on by itself in")
        expect_answered(page)
        page.close()  # it still asks, and the service is about to stop


@pytest.fixture(scope="module")
def locked_service() -> Iterator[str]:
    with running_service(MAEVE_API_KEY=KEY) as url:
        yield url


def test_a_locked_service_is_opened_with_its_key(
    open_page: OpenPage, locked_service: str, complaints: Complaints
) -> None:
    complaints.expected.append("401")
    page = open_page(locked_service)
    expect(page.locator("#unlock")).to_be_hidden()
    take_sample(page)
    error = page.locator("#reconstruct .error")
    expect(error).to_have_text("This service is locked: it asks for an API key.")
    form = page.locator("#reconstruct #unlock")
    expect(form).to_contain_text("gone when the page is closed")
    screenshot(page, "locked")
    assert violations(page) == []

    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Unlock").click()
    expect(error).to_have_text("The service does not accept this key.")
    expect(page.get_by_label("API key")).to_be_focused()

    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect_answered(page)
    expect(page.locator("#unlock")).to_be_hidden()
    page.locator("#classify").scroll_into_view_if_needed()
    expect(page.locator("#classify [data-part=labels]")).to_contain_text("%")
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]

    page.reload()
    take_sample(page)
    expect(form).to_be_visible()


def test_a_key_that_no_header_can_carry_is_not_sent(
    open_page: OpenPage, locked_service: str, complaints: Complaints
) -> None:
    complaints.expected.append("401")
    page = open_page(locked_service)
    take_sample(page)
    field = page.get_by_label("API key")
    field.fill("ключ")
    page.get_by_role("button", name="Unlock").click()
    assert field.evaluate("each => each.validity.patternMismatch")
    expect(page.locator("#unlock")).to_be_visible()


def test_what_cards_draw_follows_the_theme_and_the_width(page: Page) -> None:
    """Counts the calls of a card's redraw(), made with the page's own modules."""
    page.evaluate(
        """async () => {
          const { make } = await import("/static/dom.js");
          const { Panel } = await import("/static/panel.js");
          class Counted extends Panel {
            drawn = 0;
            photos() { return [1]; }
            async work() {}
            redraw() { this.drawn += 1; }
          }
          const section = make("section", { className: "card" });
          document.querySelector("main").prepend(section);
          window.counted = new Counted(section, { photos: {}, unlock: { close() {} } });
          window.counted.photosChanged();
        }"""
    )
    eventually(lambda: page.evaluate("!window.counted.section.matches('.busy, .empty')"))
    before = page.evaluate("window.counted.drawn")
    page.emulate_media(color_scheme="dark")
    eventually(lambda: page.evaluate("window.counted.drawn") == before + 1)
    page.set_viewport_size({"width": 600, "height": 700})
    eventually(lambda: page.evaluate("window.counted.drawn") > before + 1)


def test_every_module_is_announced_in_the_head(page: Page) -> None:
    """So that a browser fetches them all at once, not one import after the other."""
    loaded = set(page.evaluate("performance.getEntriesByType('resource').map(each => each.name)"))
    announced = set(page.evaluate("[...document.querySelectorAll('link[rel=modulepreload]')].map(each => each.href)"))
    modules = {url for url in loaded if url.endswith(".js")}
    assert modules - announced == {url for url in modules if url.endswith("/app.js")}
