"""Figures: drawn by matplotlib in the light colours, shown as SVG whose colours follow the page's theme, or as PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from training.pages.palette import COLORS, light, series

_SIZE = (5.2, 3.2)  # inches; at 72 pixels each a phone shrinks a figure by little
Best = Literal["max", "min"]
_MARKERS = ("o", "^", "s")
MAX_NUMBERED = 30  # classes that a matrix can show with names and numbers, and a map with a legend
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "maeve", "text.parse_math": False, "font.size": 11.0,
    "axes.facecolor": "none", "figure.facecolor": light("card"), "text.color": light("text"),
    "axes.labelcolor": light("text"), "axes.edgecolor": light("line"), "axes.titlecolor": light("text"),
    "axes.titlesize": 11.0, "grid.color": light("line"), "xtick.color": light("line"), "ytick.color": light("line"),
    "xtick.labelcolor": light("soft"), "ytick.labelcolor": light("soft"), "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True,
    "legend.frameon": False, "legend.fontsize": 10.5, "lines.linewidth": 1.8, "figure.constrained_layout.use": True,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """x, y: one value per point; spread: (lower, upper) bounds of a band around y; color: index of its colour.

    best: which of its points to mark, if any.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    color: int = 0
    dashed: bool = False
    spread: tuple[ArrayLike, ArrayLike] | None = None
    best: Best | None = None

    def best_point(self) -> tuple[float, float]:
        """(x, y) of the highest or lowest y, the first of equals."""
        x, y = np.asarray(self.x, np.float64), np.asarray(self.y, np.float64)
        at = int(np.nanargmin(y) if self.best == "min" else np.nanargmax(y))
        return float(x[at]), float(y[at])


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One group per name on the axis: values with the heights of their error bars (NaN = none)."""

    name: str
    values: Sequence[float]
    errors: Sequence[float]
    color: int = 0


def line_figure(
    lines: Sequence[Line], *, x_label: str, y_label: str, percent: bool = False, integer_x: bool = True
) -> Figure:
    """Curves. percent: y counts from 0 to 1 and is shown in percent; integer_x: no ticks between counts."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE)
        axes = figure.subplots()
        for line in lines:
            dots: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(np.asarray(line.x)) < 40 else {}
            axes.plot(
                line.x, line.y, label=line.name, color=series(line.color), ls="--" if line.dashed else "-", **dots
            )
            if line.spread is not None:
                axes.fill_between(line.x, *line.spread, color=series(line.color), alpha=0.18, lw=0)
        axes.set(xlabel=x_label, ylabel=y_label)
        _finish(axes, percent)
        marked = [line for line in lines if line.best is not None]
        highest = max(marked, key=lambda line: line.best_point()[1], default=None)
        for line in marked:
            _mark_best(axes, line, percent, above=line.best == "max" and line is highest)
        if integer_x:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        _legend(figure, len(lines))
    return figure


def _mark_best(axes: Any, line: Line, percent: bool, above: bool) -> None:
    """A ring around the point, and its value above or below, where room is made for it."""
    x, y = line.best_point()
    axes.scatter([x], [y], s=90, facecolors="none", edgecolors=series(line.color), linewidths=1.8, zorder=3)
    low, high = axes.get_xlim()
    align = "left" if x < low + 0.15 * (high - low) else "right" if x > high - 0.15 * (high - low) else "center"
    bottom, top = axes.get_ylim()
    room = 0.18 * (top - bottom)
    axes.set_ylim(min(bottom, y - (0 if above else room)), max(top, y + (room if above else 0)))
    said = f"{100 * y:.1f} %" if percent else f"{y:.4g}"
    axes.annotate(
        said, (x, y), xytext=(0, 9 if above else -9), textcoords="offset points", ha=align,
        va="bottom" if above else "top", fontweight="bold",
    )  # fmt: skip


def bar_figure(bars: Sequence[Bars], names: Sequence[str], *, y_label: str, percent: bool = False) -> Figure:
    """Groups of bars side by side with error bars, one group per name."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE)
        axes = figure.subplots()
        width = 0.8 / len(bars)
        for i, group in enumerate(bars):
            at = np.arange(len(names)) + (i - (len(bars) - 1) / 2) * width
            axes.bar(at, np.nan_to_num(group.values), width * 0.92, label=group.name, color=series(group.color))
            shown = np.isfinite(group.errors) & np.isfinite(group.values)
            if shown.any():
                axes.errorbar(
                    at[shown], np.asarray(group.values)[shown], np.asarray(group.errors)[shown], fmt="none",
                    ecolor=light("text"), capsize=3, lw=1.2,
                )  # fmt: skip
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel(y_label)
        axes.grid(visible=False, axis="x")
        _finish(axes, percent)
        _legend(figure, len(bars))
    return figure


def map_figure(points: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """A map of points f32 [N, 2], coloured by their labels i64 [N]; a legend where the classes are few enough."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0], _SIZE[0] * 0.9))
        axes = figure.subplots()
        size = 14.0 if len(points) < 600 else 6.0
        for label in np.unique(labels):
            rows = labels == label
            name = classes[label] if 0 <= label < len(classes) else "no label"
            marker = _MARKERS[(label // 10) % len(_MARKERS)]
            axes.scatter(
                points[rows, 0],
                points[rows, 1],
                s=size,
                color=series(int(label)),
                marker=marker,
                label=name,
                lw=0,
                alpha=0.85,
            )
        axes.set_axis_off()
        if len(classes) <= MAX_NUMBERED:
            columns = 2 if len(classes) > 15 else 1
            figure.legend(
                loc="outside right upper", ncols=columns, handletextpad=0.1, markerscale=2, labelcolor=light("text")
            )
    return figure


def heat_figure(
    values: NDArray[np.float64],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str,
    column_label: str,
    texts: Sequence[Sequence[str]],
    title: str = "",
    cell_width: float = 0.46,
) -> Figure:
    """A matrix [R, C] of strengths in 0..1 (NaN = nothing there) with a text in every cell; cell_width in inches."""
    longest = max(map(len, rows), default=1)
    with mpl.rc_context(_STYLE):
        figure = Figure(
            figsize=(max(2.6, cell_width * len(columns) + 0.075 * longest + 1.1), max(1.6, 0.34 * len(rows) + 1.3))
        )
        axes = figure.subplots()
        _cells(axes, values, texts)
        turned = 90 if len(columns) > 4 and max(map(len, columns)) > 4 else 0
        axes.set_xticks(range(len(columns)), columns, rotation=turned)
        axes.set_yticks(range(len(rows)), rows)
        axes.set(xlabel=column_label, ylabel=row_label, xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axes.set_title(title)
        axes.tick_params(length=0)
    return figure


def _cells(axes: Any, values: NDArray[np.float64], texts: Sequence[Sequence[str]]) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for (r, c), value in np.ndenumerate(values):
        strength = float(np.nan_to_num(value))
        axes.add_patch(mpl.patches.Rectangle((c - 0.47, r - 0.46), 0.94, 0.92, fc=light("heat"), alpha=strength, lw=0))
        axes.text(c, r, texts[r][c], ha="center", va="center", fontsize=10)


def matrix_figure(values: NDArray[np.float64]) -> Figure:
    """A matrix [N, N] of strengths in 0..1 as an image, for one too large for numbers."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0], _SIZE[0]))
        axes = figure.subplots()
        rgba = np.zeros((*values.shape, 4))
        rgba[..., :3] = mpl.colors.to_rgb(light("accent"))
        rgba[..., 3] = np.sqrt(values)  # single confusions among hundreds of images would not be seen
        axes.imshow(rgba, interpolation="none")
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.grid(visible=False)
    return figure


def _finish(axes: Any, percent: bool) -> None:
    axes.grid(lw=0.6)
    axes.set_axisbelow(True)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        low, high = axes.get_ylim()
        low, high = max(0.0, low), min(1.01, high)
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= 1])
        axes.set_ylim(low, high)


def _legend(figure: Figure, num: int) -> None:
    """Above the axes, where it hides nothing."""
    if num > 1:
        figure.legend(loc="outside upper left", ncols=2, labelcolor=light("text"))


def png(figure: Figure) -> bytes:
    """In the light colours, for whatever shows no SVG."""
    return _saved(figure, format="png", dpi=160)


def svg(figure: Figure) -> str:
    """An <svg> element to stand in a page: no fixed size, no colours but the theme's, no metadata."""
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    text = _saved(figure, format="svg", transparent=True, metadata=nothing).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)  # the page's own
    text = re.sub(r"\s*\n\s*", " ", text)
    for name, (color, _) in COLORS.items():
        text = text.replace(color, f"var(--{name})")
    return text


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a browser has fonts for names that matplotlib's has not
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def unique_ids(svg_text: str, prefix: str) -> str:
    """Keep the ids that the element itself refers to, under a prefix, so that many such elements fit one page."""
    referred = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg_text))

    def rename(match: re.Match[str]) -> str:
        return f' id="{prefix}{match[1]}"' if match[1] in referred else ""

    svg_text = re.sub(r' id="([^"]*)"', rename, svg_text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg_text)
