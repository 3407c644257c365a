"""Figures carry their numbers and names, follow the page's theme, and many of them fit one page."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.contrast import contrast
from training.pages.figures import (
    Bars,
    Best,
    Line,
    bar_figure,
    heat_figure,
    line_figure,
    map_figure,
    matrix_figure,
    png,
    svg,
    unique_ids,
)
from training.pages.palette import COLORS, SERIES


def mixed(over: str, under: str, share: float) -> str:
    parts = [round(share * int(over[i : i + 2], 16) + (1 - share) * int(under[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{part:02x}" for part in parts)


def test_the_measure_of_contrast() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("ground", ["page", "card"])
def test_text_and_marks_stand_out_in_both_themes(theme: int, ground: str) -> None:
    """WCAG AA: 4.5 for text, 3 for what must be told apart in a figure."""
    for name in ("text", "soft", "accent", "bad"):
        assert contrast(COLORS[name][theme], COLORS[ground][theme]) >= 4.5, name
    for name in SERIES:
        assert contrast(COLORS[name][theme], COLORS[ground][theme]) >= 3, name


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("strength", [0, 0.25, 0.5, 0.75, 1])
def test_a_cell_s_text_can_be_read_at_any_strength(theme: int, strength: float) -> None:
    cell = mixed(COLORS["heat"][theme], COLORS["card"][theme], strength)
    assert contrast(COLORS["text"][theme], cell) >= 4.5


def figures() -> list[Figure]:
    labels = np.arange(12) % 3
    return [
        line_figure([Line(name="loss", x=[1, 2], y=[3.0, 4.0])], x_label="epoch", y_label="loss"),
        bar_figure([Bars(name="a", values=[0.5], errors=[float("nan")])], ["10 %"], y_label="right"),
        map_figure(np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32), labels, ["a", "b", "c"]),
        heat_figure(
            np.eye(2),
            rows=["a", "b"],
            columns=["a", "b"],
            row_label="r",
            column_label="c",
            texts=[["1", ""], ["", "1"]],
        ),
        matrix_figure(np.eye(40)),
    ]


@pytest.mark.parametrize("index", range(5))
def test_an_svg_has_no_colours_of_its_own_and_no_fixed_size(index: int) -> None:
    text = svg(figures()[index])
    assert text.startswith("<svg")
    assert re.findall(r"#[0-9a-f]{6}\b", text) == []
    assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= set(COLORS)
    assert re.search(r"<svg[^>]* (width|height)=", text) is None
    assert "metadata" not in text
    assert "<style" not in text


def test_the_points_of_a_line_lie_where_their_numbers_say() -> None:
    figure = line_figure(
        [Line(name="a", x=[0, 1, 2], y=[5.0, 3.0, 1.0]), Line(name="b", x=[0, 2], y=[1.0, 2.0], color=1)],
        x_label="epoch", y_label="loss",
    )  # fmt: skip
    axes: Any = figure.axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 5], [1, 3], [2, 1]], [[0, 1], [2, 2]]]
    text = svg(figure)
    assert [">epoch<" in text, ">loss<" in text, ">a<" in text, ">b<" in text] == [True] * 4


@pytest.mark.parametrize(("best", "point", "said"), [("max", (2.0, 0.5), "50.0 %"), ("min", (4.0, 0.125), "12.5 %")])
def test_the_best_point_is_ringed_and_named(best: Best, point: tuple[float, float], said: str) -> None:
    """The first of equals."""
    line = Line(name="a", x=[1, 2, 3, 4], y=[0.25, 0.5, 0.5, 0.125], best=best)
    figure = line_figure([line], x_label="epoch", y_label="right", percent=True)
    axes: Any = figure.axes[0]
    (ring,) = axes.collections
    assert [tuple(offset) for offset in ring.get_offsets()] == [point] == [line.best_point()]
    assert [text.get_text() for text in axes.texts] == [said]
    assert f">{said}<" in svg(figure)


def test_the_values_of_two_best_points_do_not_meet() -> None:
    """The higher one's stands above its line, the other's below, both within the axes."""
    lines = [Line(name=name, x=[1, 2], y=[0.5, y], best="max") for name, y in (("a", 0.9), ("b", 1.0))]
    axes: Any = line_figure(lines, x_label="epoch", y_label="right", percent=True).axes[0]
    assert [(text.get_text(), text.get_va()) for text in axes.texts] == [("90.0 %", "top"), ("100.0 %", "bottom")]
    low, high = axes.get_ylim()
    assert low < 0.5
    assert high > 1
    assert max(axes.get_yticks()) <= 1


def test_error_bars_are_drawn_where_there_is_a_spread() -> None:
    bars = Bars(name="a", values=[0.5, 0.6, float("nan")], errors=[0.1, float("nan"), float("nan")])
    axes: Any = bar_figure([bars], ["1", "2", "3"], y_label="right", percent=True).axes[0]
    assert [patch.get_height() for patch in axes.patches] == [0.5, 0.6, 0.0]
    (errors,) = axes.collections
    assert [segment[:, 1].tolist() for segment in errors.get_segments()] == [[0.4, 0.6]]


def test_strange_names_are_shown_as_they_are() -> None:
    """Mathematics, mark-up, and letters that the plotting library's own font has not."""
    names = ["cost $1$ & <b>", "猫", "naïve"]
    text = svg(map_figure(np.eye(3, 2, dtype=np.float32), np.arange(3), names))
    assert "cost $1$ &amp; &lt;b&gt;" in text
    assert "猫" in text


def test_figures_on_one_page_share_no_ids() -> None:
    text = svg(figures()[0])
    first, second = unique_ids(text, "f1-"), unique_ids(text, "f2-")
    ids = [re.findall(r' id="([^"]*)"', t) for t in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    referred = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', first))
    assert referred == set(ids[0])


def test_a_png_shows_the_same_figure_in_light_colours() -> None:
    image = Image.open(io.BytesIO(png(figures()[3]))).convert("RGB")
    colors = {color for _, color in image.getcolors(maxcolors=2**24) or []}
    assert {(255, 255, 255), (0x7A, 0x9B, 0xE0), (0x1C, 0x1D, 0x20)} <= colors
