"""The reference at /docs, as a reader sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SAMPLES, Complaints, OpenPage, Scheme, overflows, screenshot, violations


@pytest.fixture
def docs(open_page: OpenPage, service: str) -> Page:
    return open_page(f"{service}docs")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_it_fits_and_is_accessible(open_page: OpenPage, service: str, width: int, scheme: Scheme) -> None:
    page = open_page(f"{service}docs", width=width, scheme=scheme)
    expect(page.locator("#post-embed")).to_be_visible()
    screenshot(page, f"docs-{width}-{scheme}")
    assert not overflows(page)
    assert violations(page) == []


def test_every_route_and_parameter_is_there(docs: Page, service: str) -> None:
    with httpx.Client(base_url=service, trust_env=False) as http:
        paths = http.get("openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            heading = docs.locator("h2", has=docs.get_by_text(path, exact=True)).filter(has_text=method.upper())
            card = docs.locator("article", has=heading)
            expect(card).to_contain_text(operation["description"])
            for parameter in operation.get("parameters", []):
                expect(card.get_by_role("cell", name=parameter["name"], exact=True)).to_be_visible()
    expect(docs.locator("#contents a")).to_have_count(sum(len(methods) for methods in paths.values()))


def test_parameters_say_what_is_allowed(docs: Page) -> None:
    keep, seed = docs.locator("#post-embed tr", has_text="keep"), docs.locator("#post-reconstruct tr", has_text="seed")
    expect(keep.last).to_contain_text("number, above 0, up to 1, default 1")
    expect(seed).to_contain_text("integer, from 0, below 2^63, default 0")
    expect(docs.locator("#post-reconstruct")).to_contain_text('"mean_error": number')
    expect(docs.locator("#post-reconstruct")).to_contain_text("Or, where Accept asks for it, image/png.")


def test_a_route_has_an_address(open_page: OpenPage, service: str) -> None:
    page = open_page(f"{service}docs#post-reconstruct")
    expect(page.locator("#post-reconstruct h2")).to_be_in_viewport()
    page.get_by_role("navigation").get_by_text("/info").click()
    expect(page).to_have_url(f"{service}docs#get-info")
    expect(page.locator("#get-info h2")).to_be_in_viewport()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_a_command_that_is_copied_runs(docs: Page, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "cat.jpg", tmp_path / "photo.jpg")
    docs.get_by_role("button", name="Copy the curl command for /classify").click()
    expect(docs.locator("#announcements")).to_have_text("Copied the curl command for /classify")
    command = docs.evaluate("navigator.clipboard.readText()")
    out = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, timeout=30).stdout
    assert len(json.loads(out)["predictions"][0]) == 5


def test_a_service_that_does_not_answer_is_told(open_page: OpenPage, service: str, complaints: Complaints) -> None:
    complaints.expected.append("ERR_FAILED")
    page = open_page(f"{service}docs", before=lambda page: page.route("**/openapi.json", lambda route: route.abort()))
    expect(page.get_by_role("alert")).to_have_text("The service cannot be reached. Is it still running?")
