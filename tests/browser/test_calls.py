"""The commands and the Python lines below the cards are run, and give what the page was given."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import (
    SAMPLES,
    Complaints,
    OpenPage,
    give_photos,
    running_service,
    take_sample,
)  # fmt: skip
from tests.servers import ROOT
from tests.service.helpers import pixels

KEY = "maeve_for_the_tests"
ODD_NAMES = (
    "two words.png", "it's \"quoted\".png", "Bär;type=text,plain.png", "a,b.png", "$HOME `id` \\t.png", "-n.png",
    "@x.png",
)  # fmt: skip
AS_JSON = """
import json, dataclasses, numpy
def plain(value):
    if dataclasses.is_dataclass(value):
        value = {name: each for name, each in vars(value).items() if not isinstance(each, bytes)}
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, numpy.ndarray):
        return value.tolist()
    return [plain(each) for each in value] if isinstance(value, list) else value
print(json.dumps(plain(result)))
"""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


@pytest.fixture
def asked(page: Page) -> list[str]:
    """The addresses that the page sends photos to."""
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url) if request.method == "POST" else None)
    return addresses


def answer(address: str, photo: Path) -> dict[str, Any]:
    """What the service says to this photo, asked by neither the page nor its calls."""
    with httpx.Client(trust_env=False) as http:
        told: dict[str, Any] = http.post(address, content=photo.read_bytes()).raise_for_status().json()
    return told


def run(command: list[str], folder: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAEVE_")}
    env = clean | {"PYTHONPATH": str(ROOT), "no_proxy": "*"} | environment
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_curl(text: str, folder: Path, **environment: str) -> str:
    return run(["bash", "-c", text], folder, **environment)


def curled(text: str, folder: Path) -> dict[str, Any]:
    """The JSON that the command gives, in the file that it names or, where it names none, for all to see."""
    out = run_curl(text, folder)
    named = re.search(r"-o '(.+)'", text)
    told: dict[str, Any] = json.loads((folder / named[1]).read_text() if named else out)
    assert named is None or out == ""
    return told


def run_python(text: str, folder: Path, **environment: str) -> Any:
    return json.loads(run([sys.executable, "-c", text + AS_JSON], folder, **environment).splitlines()[-1])


def without_cached(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "cached"}


def assert_same(told: dict[str, Any], result: Any) -> None:
    """The client's result says what the route's JSON does."""
    if "embeddings" in told:
        np.testing.assert_allclose(result, told["embeddings"], rtol=1e-6)
    elif "predictions" in told:
        assert result == told["predictions"]
    else:
        which = "hidden" if "passes" in told else "mask"  # of an anomaly map, or of one reconstruction
        assert (result["grid"], result[which]) == (told["grid"], told[which])
        np.testing.assert_allclose(result["error"], told["error"], rtol=1e-6)
        assert result["mean_error"] == told["mean_error"]


def cards(page: Page) -> Iterator[Locator]:
    """Every card that shows calls, once it is answered and its calls are open."""
    shown = page.locator("section.card:visible")
    expect(shown.first).to_be_visible()
    for card in shown.all():
        card.scroll_into_view_if_needed()
        expect(card).not_to_have_class(re.compile(r"\bbusy\b"))
        calls = card.locator(".calls")
        if calls.is_visible():
            if calls.get_attribute("open") is None:
                calls.locator("summary").press("Enter")
            yield card


def address_of(curl: str) -> str:
    return curl.split("'")[-2]


def test_every_cards_calls_give_what_it_asked_for(page: Page, asked: list[str], tmp_path: Path) -> None:
    photo = Path(shutil.copy(SAMPLES / "coffee.jpg", tmp_path))
    take_sample(page, "A cup of coffee")
    seen = 0
    for card in cards(page):
        curl, python = card.locator("pre.curl").inner_text(), card.locator("pre.python")
        assert address_of(curl) in asked
        told = answer(address_of(curl), photo)
        if "'Accept: " not in curl:
            assert without_cached(curled(curl, tmp_path)) == without_cached(told)
        if python.is_visible():
            assert_same(told, run_python(python.inner_text(), tmp_path))
        seen += 1
    assert seen >= 5
    for made in ("reconstruction.png", "heatmap.png"):  # by the Python lines
        assert (tmp_path / made).read_bytes().startswith(b"\x89PNG")


def test_the_numbers_on_the_page_are_those_of_the_command(page: Page, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "coffee.jpg", tmp_path)
    take_sample(page, "A cup of coffee")
    shown = {card.get_attribute("id"): card for card in cards(page)}
    labels = curled(shown["classify"].locator("pre.curl").inner_text(), tmp_path)["predictions"][0]
    for label in labels:
        expect(shown["classify"]).to_contain_text(label["label"])
        expect(shown["classify"]).to_contain_text(f"{100 * label['probability']:.1f} %")
    told = curled(shown["reconstruct"].locator("pre.curl").inner_text(), tmp_path)
    expect(shown["reconstruct"]).to_contain_text(f"{sum(told['mask'])} of {len(told['mask'])} patches hidden")


def test_the_newest_values_of_the_controls_are_in_the_calls(page: Page) -> None:
    take_sample(page)
    curl = page.locator("#reconstruct pre.curl")
    expect(curl).to_contain_text("seed=0")
    page.locator("#reconstruct [data-part=seed]").fill("12")
    expect(curl).to_contain_text("seed=12")
    expect(page.locator("#reconstruct pre.python")).to_contain_text("seed=12")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names_are_only_names(page: Page, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(pixels(ODD_NAMES.index(name))).save(path)
    give_photos(page, path)
    card = next(card for card in cards(page) if card.get_attribute("id") == "embedding")
    curl = card.locator("pre.curl").inner_text()
    told = answer(address_of(curl), path)
    assert without_cached(json.loads(run_curl(curl, tmp_path))) == without_cached(told)
    assert_same(told, run_python(card.locator("pre.python").inner_text(), tmp_path))


@pytest.fixture
def write_calls(page: Page) -> Callable[..., list[str]]:
    """write_calls(names, route, **call) -> the curl command and the Python lines, by the page's own module."""

    def write(names: list[str], route: str, **call: Any) -> list[str]:
        texts: list[str] = page.evaluate(
            """async ([names, call]) => {
              const { curl, python } = await import("/static/calls.js");
              const origin = new URL("/", location.href).href;
              const photos = names.map(name => ({ name, file: { type: "image/png" } }));
              return [curl({ ...call, photos }, origin, false), python({ ...call, photos }, origin, false)];
            }""",
            [names, {"route": route, **call}],
        )
        return texts

    return write


def test_several_photos_go_in_one_form(write_calls: Callable[..., list[str]], tmp_path: Path) -> None:
    names = [*ODD_NAMES, " before.png", "after.png ", "\ttab.png"]  # browsers do not know these for pictures
    for seed, name in enumerate(names):
        Image.fromarray(pixels(seed)).save(tmp_path / name, "PNG")
    python = {"method": "embed", "args": [["pooling", "cls"], ["normalize", False]]}
    curl, lines = write_calls(names, "embed", params={"pooling": "cls", "normalize": False}, python=python)
    told = json.loads(run_curl(curl, tmp_path))
    assert len(told["embeddings"]) == len(names)
    assert_same(told, run_python(lines, tmp_path))


def test_lists_stay_readable(write_calls: Callable[..., list[str]], tmp_path: Path) -> None:
    Image.fromarray(pixels(0)).save(tmp_path / "a.png")
    python = {"method": "reconstruct", "args": [["mask", [3, 5, 8]]]}
    curl, lines = write_calls(["a.png"], "reconstruct", params={"mask": "3,5,8"}, python=python)
    assert "mask=3,5,8'" in curl
    told = json.loads(run_curl(curl, tmp_path))
    assert [i for i, removed in enumerate(told["mask"]) if removed] == [3, 5, 8]
    assert_same(told, run_python(lines, tmp_path))


def test_other_forms_are_saved_and_other_headers_sent(write_calls: Callable[..., list[str]], tmp_path: Path) -> None:
    Image.fromarray(pixels(0)).save(tmp_path / "a.png")
    call = {"python": {"method": "embed"}, "accept": "application/x-npy", "headers": {"Cache-Control": "no-store"}}
    curl, lines = write_calls(["a.png"], "embed", **call)
    run_curl(f"{curl} -D headers.txt", tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), run_python(lines, tmp_path), rtol=1e-6)
    assert "cache-control: no-store" in (tmp_path / "headers.txt").read_text().lower()


def test_a_key_is_named_and_never_shown(open_page: OpenPage, complaints: Complaints, tmp_path: Path) -> None:
    complaints.expected.append("401")
    shutil.copy(SAMPLES / "coffee.jpg", tmp_path)
    with running_service(MAEVE_API_KEY=KEY) as url:
        page = open_page(url)
        take_sample(page, "A cup of coffee")
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#unlock")).to_be_hidden()
        card = next(card for card in cards(page) if card.get_attribute("id") == "embedding")
        curl, python = card.locator("pre.curl").inner_text(), card.locator("pre.python").inner_text()
        assert KEY not in page.content()
        told = json.loads(run_curl(curl, tmp_path, MAEVE_API_KEY=KEY))
        assert_same(told, run_python(python, tmp_path, MAEVE_API_KEY=KEY))
        assert json.loads(run_curl(curl, tmp_path, MAEVE_API_KEY="wrong"))["error"]["code"] == 401


@pytest.mark.parametrize("clipboard", ["the browser's", "none"])
def test_calls_are_copied(page: Page, clipboard: str) -> None:
    """A page over plain HTTP from another machine has no clipboard of its own; the old command does it there."""
    if clipboard == "none":
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    take_sample(page)
    expect(page.locator("#reconstruct .calls")).to_be_visible()
    page.locator("#reconstruct .calls summary").click()
    for what, block in [("the curl command", "curl"), ("the Python lines", "python")]:
        button = page.locator("#reconstruct").get_by_role("button", name=f"Copy {what}")
        button.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#announcements")).to_have_text(f"Copied {what}")
        expect(button).to_have_text("Copied")
        expect(button).to_be_focused()
        reader = page.context.new_page()  # that has a clipboard
        reader.goto(page.url)
        copied = reader.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator(f"#reconstruct pre.{block}").inner_text()
        reader.close()
        page.bring_to_front()
