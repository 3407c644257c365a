"""The pieces that several pages show: figures in words, maps of features, confusion and F1 per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.pages.figures import MAX_NUMBERED, heat_figure, map_figure, matrix_figure
from training.pages.record import Record
from training.pages.render import Block, Drawing, Facts, Group, Share, Table, drawing, missing
from training.pages.scores import SPLIT_NAMES, Scores, score
from training.run import PREDICTIONS_FILE

NOTHING = "\N{EN DASH}"  # where a figure would be
_WHEN = {"started_at": "started", "git_commit": "commit"}
_EXTREMES = 10  # classes shown at either end where there are too many for all


def percent(value: float | None) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def number(value: object) -> str:
    """A figure as the pages write it: four digits that count, thousands apart."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def mean_std(summary: Mapping[str, float | None] | None) -> str:
    """Of a summary over seeds; the deviation in points where there is one."""
    if summary is None or summary["mean"] is None:
        return NOTHING
    std = summary["std"]
    return percent(summary["mean"]) + ("" if std is None else f" ± {100 * std:.1f}")


def seconds(value: float | None) -> str:
    """In the unit that reads best."""
    if value is None:
        return NOTHING
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def metric(name: str, value: float) -> str:
    """Shares of images are written in percent."""
    return percent(value) if is_share(name) else number(value)


def is_share(name: str) -> bool:
    return name.endswith(("_top1", "_top5", "_f1")) or name.startswith(("probe_ridge_", "probe_knn_"))


def surroundings(document: Mapping[str, Any]) -> list[Block]:
    """Where and when it was, as run.json and its like keep it."""
    found = document.get("environment")
    pairs = _pairs(found) if isinstance(found, dict) else []
    pairs += [(said, str(document[name])) for name, said in _WHEN.items() if document.get(name)]
    return [Facts(pairs), *([] if found else [missing("The environment was not recorded.")])]


def configuration(fields: Mapping[str, Any]) -> list[Block]:
    return [Facts(_pairs(fields))] if fields else [missing("The configuration was not recorded.")]


def _pairs(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), NOTHING if value is None else str(value)) for name, value in fields.items()]


def feature_map(points: NDArray[Any], labels: NDArray[Any], classes: Sequence[str], name: str) -> Drawing:
    """Raises TrainingError unless points are [N, 2] and finite, and labels [N]."""
    points, labels = np.asarray(points, np.float32), np.asarray(labels, np.int64)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1] or not np.isfinite(points).all():
        raise TrainingError(f"a map needs finite points [N, 2] and labels [N], got {points.shape} and {labels.shape}")
    alt = f"t-SNE map of {len(points)} images by {name}, coloured by their {len(classes)} classes"
    return drawing(map_figure(points, labels, classes), alt, f"{name}: {len(points):,} images by t-SNE")


def scores_of(record: Record) -> Scores | None:
    """None where the run has no predictions. Raises TrainingError for damaged ones."""
    arrays = record.arrays(PREDICTIONS_FILE)
    return None if arrays is None else score(arrays, len(record.classes))


def confusion(scores: Scores, classes: Sequence[str], name: str = "") -> Drawing:
    """Shares of each true class; numbers where they can be read."""
    who = f" of {name}" if name else ""
    images = int(scores.confusion.sum())
    alt = (
        f"Confusion matrix{who} on the {images} images of the {SPLIT_NAMES[scores.split]}; top-1 {percent(scores.top1)}"
    )
    caption = f"{name or 'Confusion'}: {images:,} images of the {SPLIT_NAMES[scores.split]}"
    rates = scores.rates()
    if len(classes) > MAX_NUMBERED:
        return drawing(matrix_figure(rates), alt, f"{caption}; classes in the order of labels.json")
    texts = [[f"{n}" if n else "" for n in row] for row in scores.confusion.tolist()]
    figure = heat_figure(
        rates, rows=classes, columns=classes, row_label="true class", column_label="predicted class", texts=texts
    )
    return drawing(figure, alt, caption)


def class_by_class(named: Sequence[tuple[str, Scores]], classes: Sequence[str]) -> list[Block]:
    """The confusions of classifiers, and their F1 per class, a column for each.

    With many classes it shows the best and the worst ten of the last classifier.
    """
    head = ["class", "images", *(f"F1 {name}".rstrip() for name, _ in named)]
    counts = named[-1][1].confusion.sum(axis=1)

    def row(k: int) -> list[str | Share]:
        return [classes[k], f"{counts[k]:,}", *(_f1(s.f1[k]) for _, s in named)]

    matrices = [confusion(scores, classes, name) for name, scores in named]
    macro = ["macro average", f"{counts.sum():,}", *(_f1(s.macro_f1) for _, s in named)]
    if len(classes) <= MAX_NUMBERED:
        return [Group([*matrices, Table(head, [*map(row, range(len(classes))), macro], "F1 by class")])]
    f1 = named[-1][1].f1
    order = [int(k) for k in np.argsort(-f1, kind="stable") if not np.isnan(f1[k])]
    best = Table(head, [row(k) for k in order[:_EXTREMES]], "F1 of the best classes")
    worst = Table(head, [row(k) for k in order[::-1][:_EXTREMES]], "F1 of the worst classes")
    return [Group([*matrices, Table(head, [macro], "F1 of all classes")]), Group([best, worst])]


def _f1(value: float) -> str | Share:
    return NOTHING if math.isnan(value) else Share(f"{value:.3f}", value)
