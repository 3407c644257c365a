"""Reports, comparisons and sweeps as their readers open them: files in a browser, of real runs on small made images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage, Scheme, overflows, screenshot, violations
from tests.training.conftest import TINY, write_photos
from training.compare import CompareConfig, compare
from training.features import write_features
from training.finetune import FinetuneConfig, finetune
from training.pack import pack
from training.pretrain import PretrainConfig, pretrain
from training.probe import ProbeConfig, probe
from training.report import write_report
from training.sweep import SweepConfig, sweep

KINDS = ("pretrain", "finetune", "many-classes", "probe", "begun", "compare", "sweep")
LOOKS: list[tuple[int, Scheme]] = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
_WRITERS = ("pretraining", "finetuning", "probing")  # modules that write a report in the end
NUM_MANY = 40  # classes, too many for a matrix with numbers


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A page of each kind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small lose more by waking threads than they gain
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loop.LOG_EVERY_S", 0.0)  # a row for every step
        # training's own tests leave these out, for as long as any of them is to come
        patch.setattr("training.pretraining.write_features", write_features)
        for name in _WRITERS:
            patch.setattr(f"training.{name}.write_report", write_report)
        yield {**_runs(folder), **_experiments(folder)}
    torch.set_num_threads(threads)


def _runs(folder: Path) -> dict[str, Path]:
    photos, test = write_photos(folder / "photos", 40), write_photos(folder / "test", 10, first=1000)
    data = pack(photos, folder / "pack").folder
    pretrained = pretrain(
        PretrainConfig(data=data, out=folder / "pretrain", epochs=8, blr=2e-2, picture_every=2, probe_every=2, **TINY)
    )
    tuned, probed = folder / "finetune", folder / "probe"
    finetune(FinetuneConfig(data=data, test=test, init=pretrained, out=tuned, finetune_recipe="plain", epochs=6))
    probe(ProbeConfig(data=data, test=test, init=pretrained, out=probed))
    runs = {"pretrain": pretrained, "finetune": tuned, "probe": probed}
    runs |= {"many-classes": _with_many_classes(tuned), "begun": _begun(pretrained)}
    return {kind: run / "report.html" for kind, run in runs.items()}


def _with_many_classes(tuned: Path) -> Path:
    """A fine-tuning with other predictions: of every tenth image the class after the true one."""
    run = Path(shutil.copytree(tuned, tuned.with_name("many-classes")))
    document = json.loads((run / "run.json").read_text())
    document["data"]["classes"] = [f"a class with the number {k}" for k in range(NUM_MANY)]
    (run / "run.json").write_text(json.dumps(document))
    labels = np.arange(NUM_MANY * 10) // 10
    predicted = np.where(np.arange(len(labels)) % 10 == 0, (labels + 1) % NUM_MANY, labels)
    np.savez(run / "predictions.npz", test_logits=np.eye(NUM_MANY, dtype=np.float32)[predicted], test_labels=labels)
    write_report(run)
    return run


def _begun(pretrained: Path) -> Path:
    """A pre-training that has not come to its first row."""
    run = pretrained.with_name("begun")
    run.mkdir()
    document = json.loads((pretrained / "run.json").read_text())
    del document["metrics"]
    (run / "run.json").write_text(json.dumps(document))
    write_report(run)
    return run


def _experiments(folder: Path) -> dict[str, Path]:
    """A comparison and a sweep, whose runs need no pages of their own."""
    data = folder / "pack"
    with pytest.MonkeyPatch.context() as patch:
        for name in _WRITERS:
            patch.setattr(f"training.{name}.write_report", lambda run: run)
        compare(
            CompareConfig(
                data=data, test=folder / "test", out=folder / "compare", init=folder / "pretrain",
                fractions=(0.2, 0.5), seeds=(0, 1), blrs=(2e-3,), epochs=5, batch_size=8,
                finetune_set=("finetune_recipe=plain",),
            )
        )  # fmt: skip
        sweep(
            SweepConfig(
                data=data, out=folder / "sweep", mask_ratio="0.5,0.75,0.9", decoder_depth="1,2", recipe="px32",
                depth="1", patch_size="8", decoder_dim="32", decoder_heads=2, batch_size=30, epochs=2,
            )
        )  # fmt: skip
    return {"compare": folder / "compare" / "compare.html", "sweep": folder / "sweep" / "sweep.html"}


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_fits_is_accessible_and_asks_for_nothing(
    reports: dict[str, Path], open_page: OpenPage, kind: str, width: int, scheme: Scheme
) -> None:
    asked: list[str] = []
    url = reports[kind].as_uri()
    page = open_page(
        url, width=width, scheme=scheme,
        before=lambda page: page.on("request", lambda request: asked.append(request.url)),
    )  # fmt: skip
    screenshot(page, f"report-{kind}-{width}-{scheme}")
    assert [address for address in asked if not address.startswith("data:")] == [url]
    assert not overflows(page)
    assert violations(page) == []
    assert page.get_by_text("cannot be shown").count() == 0


@pytest.mark.parametrize("kind", ["pretrain", "compare"])
def test_the_links_go_to_their_cards_by_keyboard(reports: dict[str, Path], open_page: OpenPage, kind: str) -> None:
    page = open_page(reports[kind].as_uri(), width=390)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the result")).to_be_focused()
    links = page.get_by_role("navigation", name="On this page").get_by_role("link")
    sections = page.locator("section")
    expect(links).to_have_count(sections.count())
    for i in range(links.count()):
        page.keyboard.press("Tab")
        expect(links.nth(i)).to_be_focused()
        expect(links.nth(i)).to_be_in_viewport()
        expect(links.nth(i)).to_have_attribute("href", f"#{sections.nth(i).get_attribute('id')}")
    links.nth(2).focus()
    page.keyboard.press("Enter")
    heading = sections.nth(2).get_by_role("heading", level=2)
    expect(heading).to_be_in_viewport(ratio=1)
    page.wait_for_function("element => element.getBoundingClientRect().top >= 44", arg=heading.element_handle())


def test_what_is_wide_scrolls_within_its_card_by_keyboard(reports: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(reports["pretrain"].as_uri(), width=390)
    strip = page.get_by_role("group", name="Reconstructions over time")
    strip.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("element => element.scrollLeft > 0", arg=strip.element_handle())
    assert strip.locator("img").evaluate_all("images => images.every(each => each.clientWidth >= 80)")


def test_a_number_stands_on_the_line_of_its_unit(reports: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(reports["compare"].as_uri(), width=390)
    cell = page.locator("#result td", has_text="%").first
    assert cell.evaluate("cell => cell.clientHeight < 2 * parseFloat(getComputedStyle(cell).lineHeight)")


def test_the_text_of_a_figure_is_large_enough_on_a_phone(reports: dict[str, Path], open_page: OpenPage) -> None:
    for kind in KINDS:
        page = open_page(reports[kind].as_uri(), width=390)
        heights = page.locator("figure svg text").evaluate_all(
            "texts => texts.map((text) => { const { a, b } = text.getScreenCTM();"
            " return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b); })"
        )
        assert all(height >= 8 for height in heights), kind


def test_figures_follow_the_theme(reports: dict[str, Path], open_page: OpenPage) -> None:
    """The same mark in both, and text as light or dark as the page's."""
    schemes: tuple[Scheme, Scheme] = ("light", "dark")
    colors = [_colors(open_page(reports["finetune"].as_uri(), scheme=scheme)) for scheme in schemes]
    assert colors[0][0] != colors[1][0]
    for text, label in colors:
        assert text == label


def _colors(page: Page) -> tuple[str, str]:
    """Of the page's text, and of a figure's axis."""
    label = page.locator("#loss svg text", has_text="training loss").first
    return (
        page.evaluate("getComputedStyle(document.body).color"),
        label.evaluate("text => getComputedStyle(text).fill"),
    )


def test_on_paper_it_is_light_and_whole(reports: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(reports["compare"].as_uri(), scheme="dark", width=794)  # A4 at 96 pixels an inch
    page.emulate_media(media="print")
    expect(page.get_by_role("navigation")).to_be_hidden()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 29, 32)"
    assert not overflows(page)
    screenshot(page, "report-compare-print")
