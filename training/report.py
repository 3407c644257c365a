"""python -m training.report RUN: one page of what a run did, as far as it has come; reads the run's folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bundle.cli.command import Command
from bundle.cli.flags import Positional
from training.errors import run_command
from training.pages.figures import Best, Line, line_figure
from training.pages.pieces import (
    NOTHING,
    class_by_class,
    configuration,
    feature_map,
    is_share,
    metric,
    number,
    percent,
    scores_of,
    surroundings,
)
from training.pages.reconstructions import reconstructions
from training.pages.record import FEATURES_FILE, Record, read_record
from training.pages.render import (
    Block,
    Code,
    Drawing,
    Facts,
    Group,
    Page,
    Table,
    Text,
    drawing,
    missing,
    section,
    write_page,
)
from training.run import PREDICTIONS_FILE

REPORT_FILE = "report.html"
_TITLES = {"pretrain": "Pre-training", "finetune": "Fine-tuning", "probe": "Probe"}
_PROBES = {
    "probe_ridge_cls": "ridge, cls", "probe_ridge_mean": "ridge, mean",
    "probe_knn_cls": "kNN, cls", "probe_knn_mean": "kNN, mean",
}  # fmt: skip
_WAIT = "data_wait"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write RUN/report.html: what a run did, as far as it has come."""

    run: Annotated[Path, Positional("RUN")]
    """The folder of a pretrain, finetune or probe run."""


COMMAND = Command(
    config=ReportConfig,
    module="training.report",
    examples=("python -m training.report runs/photos",),
    page="docs/training.md",
)


def write_report(run: Path) -> Path:
    """Write `report.html` from what the run's folder holds and return its path; pieces that lack are named in it.

    Raises TrainingError where the folder is not a run's, and OSError where the page cannot be written.
    """
    record = read_record(run)
    page = Page(
        title=f"{_TITLES.get(record.kind, record.kind)}: {run.resolve().name}",
        verdict=verdict(record),
        sections=[section(*part) for part in _sections(record)],
        footer="Made by python -m training.report from the files of the run.",
    )
    return write_page(page, run / REPORT_FILE)


def verdict(record: Record) -> str:
    """What came of the run, in a line."""
    metrics, kind = record.metrics, record.kind
    if not record.finished:
        loss = record.series("loss")
        now = "" if loss is None else f"; the loss is {loss[1][-1]:.4f}"
        return f"Not finished: {record.epochs_done:.4g} of {record.document.get('epochs', '?')} epochs are done{now}."
    if kind == "pretrain":
        probes = [(name, found[1][-1]) for name in _PROBES if (found := record.series(name)) is not None]
        best = max(probes, key=lambda probe: probe[1], default=None)
        said = (
            "" if best is None else f", and a probe of its features ({_PROBES[best[0]]}) is right in {percent(best[1])}"
        )
        return f"The reconstruction loss is {number(metrics.get('reconstruction_loss', NOTHING))}{said}."
    shares = {name: value for name, value in metrics.items() if name.endswith("_top1")}
    if not shares:
        return "Finished."
    # The test set's figures before the validation split's.
    ordered = sorted(shares.items(), key=lambda item: "test" not in item[0])
    chance = f"; guessing gives {percent(1 / len(record.classes))}" if record.classes else ""
    said = ", ".join(f"{_readable(name)} {percent(value)}" for name, value in ordered)
    return f"{said[0].upper()}{said[1:]}{chance}."


def _sections(record: Record) -> list[tuple[str, str, Any]]:
    shared = [
        ("environment", "Environment", partial(surroundings, record.document)),
        ("configuration", "Configuration", partial(_configuration, record)),
        ("repeat", "To repeat it", lambda: [Code(record.command())]),
    ]
    result = ("result", "Result", partial(_result, record))
    loss = ("loss", "Loss and learning rate", partial(_loss, record))
    speed = ("speed", "Speed", partial(_speed, record))
    classes = ("classes", "Class by class", partial(_classes, record))
    if record.kind == "probe":
        return [result, classes, *shared]
    if record.kind == "finetune":
        return [result, ("validation", "Validation", partial(_validation, record)), classes, loss, speed, *shared]
    return [
        result, loss, ("probes", "What probes of the features get right", partial(_probes, record)),
        ("reconstructions", "Reconstructions over time", partial(reconstructions, record)),
        ("features", "Its features as a map", partial(_features, record)), speed, *shared,
    ]  # fmt: skip


def _result(record: Record) -> list[Block]:
    metrics = [[_readable(name), metric(name, value)] for name, value in record.metrics.items()]
    names = {"name": "data", "num_images": "images", "num_corrupt": "unreadable images"}
    facts = [(said, number(record.data[name])) for name, said in names.items() if name in record.data]
    facts += [("classes", number(len(record.classes)))] if record.classes else []
    counts = {"num_train": "images to train on", "num_val": "images to validate on"}
    facts += [(said, number(record.document[name])) for name, said in counts.items() if name in record.document]
    blocks: list[Block] = [Group([Table(["", "value"], metrics), Facts(facts)] if metrics else [Facts(facts)])]
    if not metrics:
        blocks.append(missing("There are no final metrics: the run is not finished."))
    if record.num_bad_rows:
        blocks.append(missing(f"Rows of metrics.jsonl that cannot be read and are left out: {record.num_bad_rows}."))
    return blocks


def _loss(record: Record) -> list[Block]:
    figures = [
        _curve(record, "loss", "training loss", "The training loss over the epochs"),
        _curve(record, "lr", "learning rate", "The learning rate over the epochs"),
    ]
    return _grouped(figures, "metrics.jsonl has no row with a loss yet.")


def _speed(record: Record) -> list[Block]:
    speed = _curve(record, "images_per_s", "images per second", "Images per second over the epochs")
    told = "The share of time that went into waiting for data"
    wait = _curve(record, _WAIT, "time spent waiting for data", told)
    blocks = _grouped([speed, wait], "metrics.jsonl has no row with a speed yet.")
    if speed is not None and wait is None:
        blocks.append(missing("The time spent waiting for data was not recorded."))
    return blocks


def _probes(record: Record) -> list[Block]:
    lines = _lines(record, _PROBES)
    if not lines:
        return [missing("No probe ran: the data have no labels, or probes were turned off.")]
    best = max(range(len(lines)), key=lambda i: float(np.max(lines[i].y)))
    lines[best] = replace(lines[best], best="max")
    figure = line_figure(lines, x_label="epoch", y_label="right", percent=True)
    alt = f"The accuracy of probes of the features over the epochs: {lines[best].name} {_ends(lines[best])}"
    rows = [[line.name, percent(float(np.asarray(line.y)[-1])), percent(float(np.max(line.y)))] for line in lines]
    return [Group([drawing(figure, alt), Table(["probe", "last", "best"], rows)])]


def _validation(record: Record) -> list[Block]:
    lines = _lines(record, {"val_top1": "top-1", "val_top5": "top-5"})
    figures: list[Drawing | None] = []
    if lines:
        lines[0] = replace(lines[0], best="max")
        figure = line_figure(lines, x_label="epoch", y_label="right on the validation split", percent=True)
        alt = f"Accuracy on the validation split over the epochs: {lines[0].name} {_ends(lines[0])}"
        figures.append(drawing(figure, alt))
    alt = "The loss on the validation split over the epochs"
    figures.append(_curve(record, "val_loss", "validation loss", alt, best="min"))
    return _grouped(figures, "There is no validation figure yet: no epoch is finished.")


def _features(record: Record) -> list[Block]:
    arrays = record.arrays(FEATURES_FILE)
    if arrays is None:
        return [missing(f"There is no {FEATURES_FILE}: it is made at the end of a run whose data have labels.")]
    figure = feature_map(arrays["points"], arrays["labels"], record.classes, "pre-trained encoder")
    return [
        Group([figure]),
        Text("Neighbours are alike to the encoder; distances between groups mean nothing.", "soft"),
    ]


def _classes(record: Record) -> list[Block]:
    scores = scores_of(record)
    if scores is None:
        return [missing(f"There is no {PREDICTIONS_FILE}, which says what was predicted for each image.")]
    return class_by_class([("", scores)], record.classes)


def _configuration(record: Record) -> list[Block]:
    blocks = configuration(record.config)
    recipe = record.document.get("recipe")
    if isinstance(recipe, dict):
        blocks += [Text("What the recipe made of it:", "soft"), *configuration(recipe)]
    return blocks


def _curve(record: Record, name: str, label: str, alt: str, best: Best | None = None) -> Drawing | None:
    lines = [replace(line, best=best) for line in _lines(record, {name: label})]
    if not lines:
        return None
    share = is_share(name) or name == _WAIT
    return drawing(line_figure(lines, x_label="epoch", y_label=label, percent=share), f"{alt}: {_ends(lines[0])}")


def _lines(record: Record, names: dict[str, str]) -> list[Line]:
    found = [(said, record.series(name)) for name, said in names.items()]
    return [Line(name=said, x=xy[0], y=xy[1], color=i) for i, (said, xy) in enumerate(found) if xy is not None]


def _ends(line: Line) -> str:
    """What a curve does, in words."""
    y = np.asarray(line.y)
    said = f"from {y[0]:.4g} to {y[-1]:.4g}"
    if line.best is None:
        return said
    epoch, value = line.best_point()
    return f"{said}, best {value:.4g} at epoch {epoch:.4g}"


def _grouped(figures: Sequence[Drawing | None], otherwise: str) -> list[Block]:
    found = [figure for figure in figures if figure is not None]
    return [Group(found)] if found else [missing(otherwise)]


def _readable(name: str) -> str:
    for short, said in {"val_": "validation ", "knn": "kNN", "top1": "top-1", "top5": "top-5", "f1": "F1"}.items():
        name = name.replace(short, said)
    return name.replace("_", " ")


def main() -> None:
    print(write_report(COMMAND.parse().run))


if __name__ == "__main__":
    run_command(main)
