"""Answers that are not what was asked for: somebody else's, half of one, and another network's."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import Complaints, OpenPage, screenshot, take_sample, violations
from tests.browser.proxy import between
from tests.browser.reconstruct_card import expect_answered
from tests.service.helpers import NUM_PATCHES, make_bundle, serving_fake


def test_an_answer_of_somebody_else_is_told_and_asked_for_again(page: Page) -> None:
    page.route("**/reconstruct?*", lambda route: route.fulfill(content_type="text/html", body="<h1>Please log in</h1>"))
    take_sample(page)
    error = page.locator("#reconstruct .error")
    expect(error).to_contain_text("something between it and this page has answered")
    page.unroute("**/reconstruct?*")
    page.locator("#reconstruct").get_by_role("button", name="Try again").click()
    expect_answered(page)


def test_an_answer_that_breaks_off_is_told_and_asked_for_again(
    open_page: OpenPage, service: str, complaints: Complaints
) -> None:
    complaints.expected.append("ERR_CONTENT_LENGTH_MISMATCH")
    with between(lambda _: service) as proxy:
        proxy.cuts = True
        page = open_page(proxy.url)
        take_sample(page)
        expect(page.locator("#reconstruct .error")).to_have_text("The answer broke off.")
        proxy.cuts = False
        page.locator("#reconstruct").get_by_role("button", name="Try again").click()
        expect_answered(page)
        page.close()  # it still asks, and the proxy is about to stop


def test_another_network_is_told_and_all_cards_begin_anew(open_page: OpenPage, service: str, tmp_path: Path) -> None:
    """What they knew of the network before, such as its vectors of a grey picture, would be wrong now."""

    def features(page: Page) -> str:
        page.locator("#features").scroll_into_view_if_needed()
        expect(page.locator("#features [data-part=shares-list] li")).to_have_count(4)
        expect(page.locator("#features.busy")).to_have_count(0)
        drawn: str = page.locator("#features [data-part=map]").evaluate("canvas => canvas.toDataURL()")
        return drawn

    addresses = [service]
    with (
        serving_fake(make_bundle(tmp_path / "other", name="other")) as (other, _),
        between(lambda _: addresses[-1]) as proxy,
    ):
        page = open_page(proxy.url)
        take_sample(page)
        expect_answered(page)
        before = features(page)
        addresses.append(f"{other.url}/")
        page.locator("#reconstruct [data-part=seed]").fill("5")
        said = "Another network is served now: other. All cards have begun anew with it."
        expect(page.locator("#replaced")).to_have_text(said)
        expect(page.locator("#served")).to_contain_text("other sees 32")
        expect(page.locator("#chosen")).to_have_text("cat.jpg")
        expect_answered(page)
        expect(page.locator("#reconstruct [role=gridcell]")).to_have_count(NUM_PATCHES)
        screenshot(page, "replaced")
        assert violations(page) == []
        page.emulate_media(color_scheme="dark")  # the cards before have nothing to draw on any more
        fresh = open_page(f"{other.url}/", scheme="dark")
        take_sample(fresh)
        assert features(page) == features(fresh) != before
        for each in (page, fresh):
            each.close()
