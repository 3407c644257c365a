"""sweep.html and sweep.png: what a grid of pre-trainings came to, from sweep.json and the runs that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.errors import TrainingError
from training.experiments import RUNS, read_json
from training.pages.figures import Bars, Line, bar_figure, heat_figure, line_figure, png
from training.pages.pieces import NOTHING, configuration, number, percent, seconds, surroundings
from training.pages.reconstructions import BORROWED, open_picture
from training.pages.record import PICTURES
from training.pages.render import (
    Block,
    Code,
    Drawing,
    Group,
    Page,
    Table,
    Text,
    drawing,
    missing,
    picture,
    section,
    write_page,
)
from training.run import write_atomic

SWEEP_FILE, PAGE_FILE, PICTURE_FILE = "sweep.json", "sweep.html", "sweep.png"
_MAX_PICTURES = 24
_CAVEAT = (
    "A reconstruction loss compares only with those of the same target, loss, mask ratio and patch size: hiding less "
    "or predicting other pixels makes another task. "
)
Document = Mapping[str, Any]


def write_sweep(folder: Path) -> Path:
    """Write sweep.html and sweep.png; the path of the former. Raises TrainingError where there is no sweep.json."""
    document = read_json(folder / SWEEP_FILE)
    if document is None:
        raise TrainingError(f"{folder} has no {SWEEP_FILE}; is it the --out of training.sweep?")
    figure = grid_figure(document)
    write_atomic(folder / PICTURE_FILE, png(figure))
    parts: list[tuple[str, str, Any]] = [
        ("result", "Result", partial(_result, document, figure)),
        ("reconstructions", "Reconstructions side by side", partial(_reconstructions, document, folder)),
        ("environment", "Environment", lambda: surroundings(document)),
        ("configuration", "Configuration", lambda: configuration(document["config"])),
        ("repeat", "To repeat it", lambda: [Code(str(document.get("command", "not recorded")))]),
    ]
    page = Page(
        title=f"Sweep: {', '.join(map(readable, document['axes']))}", verdict=_verdict(document),
        sections=[section(*part) for part in parts],
        footer="Made by python -m training.sweep from the files of its runs.",
    )  # fmt: skip
    return write_page(page, folder / PAGE_FILE)


def readable(axis: str) -> str:
    return axis.replace("_", " ")


def score(document: Document, cell: Mapping[str, Any]) -> float:
    """What cells are shown by: probe accuracy, or the loss where nothing was probed; NaN for a failed one."""
    value = cell["metrics"].get("probe_val_top1" if document["probed"] else "reconstruction_loss")
    return float("nan") if value is None else float(value)


def ranked(document: Document) -> list[Mapping[str, Any]]:
    """The best probe first; failed cells last. In the order of the grid where nothing was probed."""
    cells: list[Mapping[str, Any]] = list(document["cells"])
    if not document["probed"]:
        return cells
    return sorted(cells, key=lambda cell: -np.nan_to_num(score(document, cell), nan=-1.0))


def grid_figure(document: Document) -> Figure:
    """One axis: a line or bars. More: a matrix, the axis with the most values across, the others' combinations down."""
    axes = document["axes"]
    probed = document["probed"]
    label = "linear probe, validation" if probed else "reconstruction loss"
    if len(axes) > 1:
        return _matrix(document, axes)
    (name,) = axes
    scores = {str(cell["values"][name]): score(document, cell) for cell in document["cells"]}
    numeric = all(isinstance(value, int | float) for value in axes[name])
    if numeric and len(scores) > 1:
        points = sorted((float(x), y) for x, y in scores.items() if np.isfinite(y))
        x, y = zip(*points, strict=True) if points else ((), ())
        line = Line(name=label, x=x, y=y, best="max" if probed and x else None)
        return line_figure([line], x_label=readable(name), y_label=label, percent=probed, integer_x=False)
    bars = Bars(name=label, values=list(scores.values()), errors=[float("nan")] * len(scores))
    return bar_figure([bars], list(scores), y_label=label, percent=probed)


def _matrix(document: Document, axes: Mapping[str, Sequence[Any]]) -> Figure:
    across = max(axes, key=lambda name: len(axes[name]))
    down = [name for name in axes if name != across]

    def row_of(cell: Mapping[str, Any]) -> str:
        return ", ".join(str(cell["values"][name]) for name in down)

    rows = list(dict.fromkeys(map(row_of, document["cells"])))
    columns = [str(value) for value in axes[across]]
    scores = np.full((len(rows), len(columns)), np.nan)
    for cell in document["cells"]:
        scores[rows.index(row_of(cell)), columns.index(str(cell["values"][across]))] = score(document, cell)
    texts = [["failed" if np.isnan(v) else _said(document, v) for v in row] for row in scores]
    return heat_figure(
        _strength(scores), rows=rows, columns=columns, texts=texts, cell_width=0.9,
        row_label=", ".join(map(readable, down)), column_label=readable(across),
        title="linear probe, validation top-1" if document["probed"] else "reconstruction loss",
    )  # fmt: skip


def _strength(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """0.1 for the least, 1 for the greatest; NaN stays."""
    if np.isnan(scores).all():
        return scores
    low, high = np.nanmin(scores), np.nanmax(scores)
    return 0.1 + 0.9 * (scores - low) / max(high - low, 1e-12)


def _said(document: Document, value: float) -> str:
    return percent(value) if document["probed"] else f"{value:.4f}"


def _verdict(document: Document) -> str:
    best = ranked(document)[0]
    if not document["probed"]:
        return f"{len(document['cells'])} pre-trainings; there were no labels to tell the better features by."
    if np.isnan(score(document, best)):
        return "Every run failed."
    equals = sum(score(document, cell) == score(document, best) for cell in document["cells"]) - 1
    others = f", and {equals} others do as well" if equals else ""
    right = percent(score(document, best))
    return f"The best features come with {_values(best)}: a linear probe is right in {right}{others}."


def _values(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{readable(name)} {value}" for name, value in cell["values"].items())


def _result(document: Document, figure: Figure) -> list[Block]:
    tested = ["test"] if document["tested"] else []
    rows = [
        [*map(str, cell["values"].values()), percent(cell["metrics"].get("probe_val_top1")),
         *(percent(cell["metrics"].get("probe_test_top1")) for _ in tested),
         number(cell["metrics"].get("reconstruction_loss", NOTHING)), number(cell["steps"] or NOTHING),
         seconds(cell["seconds"])]
        for cell in ranked(document)
    ]  # fmt: skip
    head = [*map(readable, document["axes"]), "probe", *tested, "loss", "steps", "time"]
    alt = f"{'Probe accuracy' if document['probed'] else 'Loss'}: " + "; ".join(
        f"{_values(cell)}: {_said(document, score(document, cell))}" for cell in ranked(document)
    )
    order = (
        "The table is ordered by the probe." if document["probed"] else "Give labels by --probe-data to rank the runs."
    )
    return [
        Group([drawing(figure, alt)]), Table(head, rows), Text(_CAVEAT + order, "soft"),
        *(Text(f"Failed: {f['name']}: {f['error']}", "bad") for f in document["failed"]),
    ]  # fmt: skip


def _reconstructions(document: Document, folder: Path) -> list[Block]:
    shown, without = list[Drawing](), list[str]()
    cells = ranked(document)
    for cell in cells[:_MAX_PICTURES]:
        files = sorted((folder / RUNS / cell["name"] / PICTURES).glob("*.png"))
        found = open_picture(files[-1]) if files else None
        if found is None:
            without.append(_values(cell))
        else:
            alt = f"Reconstructions with {_values(cell)}: image, visible part, reconstruction"
            shown.append(picture(found, alt, _values(cell), max_width=400))
    blocks: list[Block] = [
        Text(f"After the last epoch: the image, its visible part, and what was made of that. {BORROWED}", "soft")
    ]
    blocks += [Group(shown, "pictures")] if shown else []
    blocks += [missing(f"There is no picture of {name}.") for name in without]
    if len(cells) > _MAX_PICTURES:
        blocks.append(missing(f"The other {len(cells) - _MAX_PICTURES} runs have theirs in their own folders."))
    return blocks
