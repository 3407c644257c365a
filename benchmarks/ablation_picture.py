"""The figure of benchmarks.ablations: for every axis a chart, and beside it what each network makes of the same photos.

Everything stands on whole pixels of a sheet 1,000 wide, so that small photos are enlarged with hard edges. Letters: N
photos, S pixels of their side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from training.pages.palette import light

MAX_BYTES = 600_000
_DPI, _WIDTH, _MARGIN = 100, 1000, 14
_CHART = (58, 262)  # the left end and the width of its axes
_PHOTOS = 352  # where the photos begin
_TITLE, _TICKS, _LEAST_HEIGHT = 34, 52, 150
_TILE, _GAP = 96, 8
_LINE = 15  # from one line of text to the next
_STYLE: dict[str, Any] = {
    "font.size": 9.0, "text.parse_math": False, "text.color": light("text"), "axes.edgecolor": light("line"),
    "axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": light("line"), "grid.linewidth": 0.6, "xtick.color": light("line"), "ytick.color": light("line"),
    "xtick.labelcolor": light("text"), "ytick.labelcolor": light("soft"), "figure.facecolor": light("card"),
}  # fmt: skip

Photos = NDArray[np.uint8]  # [N, S, S, 3]


@dataclass(frozen=True)
class Point:
    """top1: one per seed; error: the height of the bar to either side of their mean; note: below the value; photos:
    what this network made of them.
    """

    label: str
    top1: Sequence[float]
    error: float
    is_recipe: bool = False
    note: str = ""
    photos: Photos | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.top1))


@dataclass(frozen=True)
class Panel:
    """An axis. joined: its values are numbers, and a line leads from one to the next; shared: its scale is that of all
    panels that share theirs; given: the photos, and what of them was seen.
    """

    title: str
    points: Sequence[Point]
    joined: bool
    shared: bool = True
    given: tuple[Photos, Photos] | None = None


def draw(panels: Sequence[Panel], caption: str) -> bytes:
    """A PNG of at most MAX_BYTES: panels with photos one below the other, then the others in pairs."""
    wide = [panel for panel in panels if panel.given is not None]
    small = [panel for panel in panels if panel.given is None]
    rows = [[panel] for panel in wide] + [small[i : i + 2] for i in range(0, len(small), 2)]
    heights = [max(map(_height, row)) for row in rows]
    head = 32 + _LINE * caption.count("\n")
    total = head + sum(heights) + _MARGIN
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH / _DPI, total / _DPI), dpi=_DPI)
        sheet = _Sheet(figure, total)
        sheet.text(_MARGIN, 20, caption, color=light("soft"))
        top = head
        limits = _limits([panel for panel in panels if panel.shared])
        for row, height in zip(rows, heights, strict=True):
            for column, panel in enumerate(row):
                own = limits if panel.shared else _limits([panel])
                sheet.panel(panel, left=column * _WIDTH // 2, top=top, height=height, limits=own)
            top += height
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return _small(buffer.getvalue())


def _height(panel: Panel) -> int:
    """Of a panel in pixels, its title included."""
    photos = 0 if panel.given is None else 24 + len(panel.given[0]) * (_tile(panel) + _GAP)
    return _TITLE + max(photos, _LEAST_HEIGHT + _TICKS) + 12


def _tile(panel: Panel) -> int:
    """The side of a photo: as many columns as there are must fit."""
    columns = 2 + len(panel.points)
    return min(_TILE, (_WIDTH - _MARGIN - _PHOTOS) // columns - _GAP)


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Of a scale that holds all points and their bars."""
    ends = [mean for panel in panels for p in panel.points for mean in (p.mean - p.error, p.mean + p.error, *p.top1)]
    if not ends:
        return 0.0, 1.0
    room = 0.12 * max(max(ends) - min(ends), 0.01)
    return max(0.0, min(ends) - room), min(1.0, max(ends) + room)


class _Sheet:
    """A figure whose places are pixels from the left and from the top."""

    def __init__(self, figure: Figure, height: int) -> None:
        self.figure, self.height = figure, height

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """y: where its first line stands."""
        for number, line in enumerate(words.splitlines()):
            self.figure.text(x / _WIDTH, 1 - (y + number * _LINE) / self.height, line, va="baseline", **style)

    def panel(self, panel: Panel, *, left: int, top: int, height: int, limits: tuple[float, float]) -> None:
        self.text(left + _MARGIN, top + 20, panel.title, fontsize=11, fontweight="bold")
        top += _TITLE
        tall = height - _TITLE - _TICKS - 12
        x, width = left + _CHART[0], _CHART[1] + (0 if panel.given is not None else 120)
        place = (x / _WIDTH, 1 - (top + tall) / self.height, width / _WIDTH, tall / self.height)
        _chart(self.figure.add_axes(place), panel, limits)
        if panel.given is not None:
            self.photos(panel, top)

    def photos(self, panel: Panel, top: int) -> None:
        """A column for each network, behind the photos themselves and what was seen of them."""
        assert panel.given is not None
        side, x = _tile(panel), _PHOTOS
        columns = [("photo", panel.given[0], False), ("seen", panel.given[1], False)]
        columns += [(p.label, p.photos, p.is_recipe) for p in panel.points if p.photos is not None]
        for label, photos, is_recipe in columns:
            style = {"color": light("accent"), "fontweight": "bold"} if is_recipe else {"color": light("soft")}
            self.text(x + side / 2, top + 12, label, ha="center", **style)
            for i, photo in enumerate(photos):
                y = top + 24 + i * (side + _GAP)
                self.figure.figimage(_resized(photo, side), x, self.height - y - side, origin="upper")
            x += side + _GAP


def _chart(axes: Any, panel: Panel, limits: tuple[float, float]) -> None:
    """The mean of each value with its bar, faint dots for the seeds, the figure itself below its name."""
    places = range(len(panel.points))
    if panel.joined:
        axes.plot(places, [point.mean for point in panel.points], color=light("soft"), lw=1.2, alpha=0.6)
    for at, point in enumerate(panel.points):
        color, marker = (light("accent"), "D") if point.is_recipe else (light("series-1"), "o")
        if point.is_recipe:
            axes.axhline(point.mean, color=color, lw=1, ls=":")
        axes.errorbar(at, point.mean, point.error, fmt=marker, color=color, ms=6, capsize=4, lw=1.3, zorder=3)
        if len(point.top1) > 1:
            axes.plot([at + 0.12] * len(point.top1), point.top1, ".", color=color, ms=4, alpha=0.5)
    for at, point in enumerate(panel.points):
        color = light("accent" if point.is_recipe else "text")
        for line, words in enumerate((point.label, f"{point.mean:.1%}", point.note)):
            below = (0, -_LINE * (line + 1) - 2)
            axes.annotate(
                words, (at, 0), below, ("data", "axes fraction"), "offset pixels", color=color, ha="center"
            )  # fmt: skip
    axes.set(xticks=places, xticklabels=[])
    axes.set(xlim=(-0.5, len(panel.points) - 0.5), ylim=limits)
    axes.grid(visible=False, axis="x")
    axes.tick_params(length=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _resized(photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """u8 [S, S, 3] -> u8 [side, side, 3], with hard edges where a pixel becomes a square of whole ones."""
    how = Image.Resampling.BICUBIC if side % len(photo) else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(photo).resize((side, side), how))


def _small(png: bytes) -> bytes:
    """Photos of many colours are told in 256, which takes less than half."""
    if len(png) <= MAX_BYTES:
        return png
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
