"""The page at /, as a visitor sees it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage, Scheme, overflows, screenshot, take_sample, violations


def test_a_sample_is_reconstructed(page: Page) -> None:
    take_sample(page)
    expect(page.locator("#reconstruct [data-part=reconstruction-text]")).to_contain_text("error")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(open_page: OpenPage, width: int, scheme: Scheme) -> None:
    page = open_page(width=width, scheme=scheme)
    take_sample(page)
    expect(page.locator("#reconstruct [data-part=reconstruction-text]")).to_contain_text("error")
    screenshot(page, f"page-{width}-{scheme}")
    assert not overflows(page)
    assert violations(page) == []
