"""compare.html: what pre-training gave, from compare.json and the runs that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.experiments import RUNS, read_json
from training.pages.figures import Bars, Line, bar_figure, line_figure
from training.pages.pieces import (
    NOTHING,
    class_by_class,
    configuration,
    feature_map,
    mean_std,
    metric,
    number,
    percent,
    scores_of,
    seconds,
    surroundings,
)
from training.pages.reconstructions import reconstructions
from training.pages.record import FEATURES_FILE, Record, read_record
from training.pages.render import (
    Block,
    Code,
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

COMPARE_FILE, PAGE_FILE = "compare.json", "compare.html"
NAMES = {"pretrained": "pre-trained", "scratch": "from scratch"}


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder and its compare.json."""

    folder: Path
    document: Mapping[str, Any]

    @cached_property
    def fractions(self) -> list[float]:
        return list(dict.fromkeys(float(arm["fraction"]) for arm in self.document["arms"]))

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in self.document["classes"]]

    def arm(self, arm: str, fraction: float) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(
            a for a in self.document["arms"] if a["arm"] == arm and a["fraction"] == fraction
        )
        return found

    def summary(self, arm: str, fraction: float, name: str = "test_top1") -> Mapping[str, float | None] | None:
        found: Mapping[str, float | None] | None = self.arm(arm, fraction)["summary"].get(name)
        return found

    def records(self, arm: str, fraction: float) -> list[Record]:
        """Of the chosen runs that can be read, in the order of their seeds."""
        found = []
        for run in self.arm(arm, fraction)["runs"]:
            try:
                found.append(read_record(self.folder / RUNS / run["name"]))
            except TrainingError:
                continue
        return found


def write_comparison(folder: Path) -> Path:
    """Write compare.html and return its path. Raises TrainingError where there is no compare.json."""
    document = read_json(folder / COMPARE_FILE)
    if document is None:
        raise TrainingError(f"{folder} has no {COMPARE_FILE}; is it the --out of training.compare?")
    c = Comparison(folder, document)
    parts: list[tuple[str, str, Any]] = [
        ("result", "Result", partial(_result, c)),
        ("probes", "The features by themselves", partial(_probes, c)),
        ("curves", "On the way", partial(_curves, c)),
        ("classes", "Class by class", partial(_classes, c)),
        ("features", "Both encoders before fine-tuning", partial(_features, c)),
        ("reconstructions", "What the pre-training learned to fill in", partial(_reconstructions, c)),
        ("choices", "What was chosen on the validation split", partial(_choices, c)),
        ("budgets", "Budgets", partial(_budgets, c)),
        ("environment", "Environment", lambda: surroundings(document)),
        ("configuration", "Configuration", lambda: configuration({**document["config"], **document["plan"]})),
        ("repeat", "To repeat it", lambda: [Code(str(document.get("command", "not recorded")))]),
    ]
    page = Page(
        title=f"Pre-trained against from scratch: {document.get('data', {}).get('name', folder.name)}",
        verdict=_verdict(c), sections=[section(*part) for part in parts],
        footer="Made by python -m training.compare from the files of its runs.",
    )  # fmt: skip
    return write_page(page, folder / PAGE_FILE)


def _verdict(c: Comparison) -> str:
    said = []
    for fraction in c.fractions:
        ours, theirs = c.summary("pretrained", fraction), c.summary("scratch", fraction)
        if ours is not None and theirs is not None:
            said.append(
                f"{percent(ours['mean'])} against {percent(theirs['mean'])} with {share(fraction)} of the labels"
            )
    failed = len(c.document.get("failed", ()))
    return ("; ".join(said) or "No fine-tuning is finished") + (f". Failed runs: {failed}." if failed else ".")


def share(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def _result(c: Comparison) -> list[Block]:
    rows, figure_rows = [], [share(f) for f in c.fractions]
    for fraction in c.fractions:
        ours, theirs = c.summary("pretrained", fraction), c.summary("scratch", fraction)
        rows.append([share(fraction), mean_std(ours), mean_std(theirs), _difference(c, fraction), _f1(c, fraction)])
    bars = [
        Bars(name=name, color=i, values=[_part(c.summary(arm, f), "mean") for f in c.fractions],
             errors=[_part(c.summary(arm, f), "std") for f in c.fractions])
        for i, (arm, name) in enumerate(NAMES.items())
    ]  # fmt: skip
    alt = "Accuracy on the test set by share of labels: " + "; ".join(
        f"{row[0]}: pre-trained {row[1]}, from scratch {row[2]}" for row in rows
    )
    seeds = len(c.document["plan"]["seeds"])
    told = (
        f"Mean ± standard deviation of {seeds} seeds, each of which draws the same labels for both arms."
        if seeds > 1 else "One seed, so nothing is known about the spread."
    )  # fmt: skip
    blocks: list[Block] = [
        Table(["labels", "pre-trained", "from scratch", "difference", "macro F1"], rows, "top-1 on the test set"),
        Text(told, "soft"),
        Group([drawing(bar_figure(bars, figure_rows, y_label="right on the test set", percent=True), alt)]),
    ]
    return [*blocks, *(Text(f"Failed: {f['name']}: {f['error']}", "bad") for f in c.document.get("failed", ()))]


def _difference(c: Comparison, fraction: float) -> str:
    """Of the same seed's two runs: the mean, and in how many of them pre-training was ahead."""
    pairs = _pairs(c, fraction)
    if not pairs:
        return NOTHING
    differences = [ours - theirs for ours, theirs in pairs]
    ahead = sum(d > 0 for d in differences)
    return f"{100 * np.mean(differences):+.1f} points, ahead in {ahead} of {len(pairs)}"


def _pairs(c: Comparison, fraction: float) -> list[tuple[float, float]]:
    by_seed = [
        {
            run["seed"]: run["metrics"]["test_top1"]
            for run in c.arm(arm, fraction)["runs"]
            if "test_top1" in run["metrics"]
        }
        for arm in NAMES
    ]
    return [(by_seed[0][seed], by_seed[1][seed]) for seed in by_seed[0] if seed in by_seed[1]]


def _f1(c: Comparison, fraction: float) -> str:
    found = [c.summary(arm, fraction, "test_f1") for arm in NAMES]
    return " / ".join(NOTHING if s is None else f"{s['mean']:.3f}" for s in found)


def _part(summary: Mapping[str, float | None] | None, name: str) -> float:
    value = None if summary is None else summary[name]
    return float("nan") if value is None else value


def _probes(c: Comparison) -> list[Block]:
    probes = [p for p in c.document.get("probes", ()) if p["metrics"]]
    if not probes:
        return [missing("No probe is finished.")]
    names = list(dict.fromkeys(name for p in probes for name in p["metrics"] if name.endswith("_top1")))
    rows = [[share(p["fraction"]), *(metric(n, p["metrics"].get(n, float("nan"))) for n in names)] for p in probes]
    head = ["labels", *(n.replace("_top1", "").replace("knn", "kNN").replace("_", " ") for n in names)]
    return [
        Text("Of the pre-trained encoder as it is, without fine-tuning; every choice on the validation split.", "soft"),
        Table(head, rows, "top-1"),
    ]


def _curves(c: Comparison) -> list[Block]:
    figures, rows = [], []
    for fraction in c.fractions:
        curves = {arm: validation_curves(c.records(arm, fraction)) for arm in NAMES}
        lines = [_line(NAMES[arm], values, i) for i, (arm, values) in enumerate(curves.items()) if values.size]
        if lines:
            figure = line_figure(
                lines, x_label=f"epoch ({share(fraction)} of the labels)", y_label="right", percent=True
            )
            figures.append(drawing(figure, f"Validation accuracy over the epochs with {share(fraction)} of the labels"))
        reached = [epochs_to_reach(*pair) for pair in zip(*curves.values(), strict=False)]
        rows.append([share(fraction), ", ".join("never" if r is None else str(r) for r in reached) or NOTHING])
    if not figures:
        return [missing("No epoch of a fine-tuning is finished.")]
    return [
        Text("Accuracy on the validation split; the band spans the seeds.", "soft"), Group(figures),
        Text("How soon the pre-trained one is as good as the one from scratch ever gets:", "soft"),
        Table(["labels", "epochs, by seed"], rows),
    ]  # fmt: skip


def validation_curves(records: Sequence[Record]) -> NDArray[np.float64]:
    """val_top1 after each epoch that all runs have behind them: f64 [runs, epochs]."""
    found = [series[1] for record in records if (series := record.series("val_top1")) is not None]
    length = min(map(len, found), default=0)
    return np.array([values[:length] for values in found]).reshape(len(found), length)


def epochs_to_reach(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> int | None:
    """The first epoch, from 1, in which ours is at least theirs at its best; None if never."""
    there = np.flatnonzero(ours >= theirs.max(initial=-np.inf))
    return int(there[0]) + 1 if len(there) else None


def _line(name: str, values: NDArray[np.float64], color: int) -> Line:
    """The mean of the runs, its best epoch marked."""
    epochs = np.arange(1, values.shape[1] + 1)
    spread = (values.min(axis=0), values.max(axis=0)) if len(values) > 1 else None
    return Line(name=name, x=epochs, y=values.mean(axis=0), color=color, dashed=color > 0, spread=spread, best="max")


def _classes(c: Comparison) -> list[Block]:
    """With the most labels, by the first seed."""
    fraction = max(c.fractions)
    named = []
    for arm, name in NAMES.items():
        record = next(iter(c.records(arm, fraction)), None)
        scores = None if record is None else scores_of(record)
        if scores is not None:
            named.append((name, scores))
    if not named:
        return [missing("The runs left no predictions.")]
    return [
        Text(f"With {share(fraction)} of the labels, by the first seed.", "soft"),
        *class_by_class(named, c.classes),
    ]


def _features(c: Comparison) -> list[Block]:
    path = c.folder / FEATURES_FILE
    if not path.exists():
        return [missing("There is no map of the features.")]
    arrays = Record(c.folder, {}, (), 0).arrays(FEATURES_FILE) or {}
    named = {"pretrained": "pre-trained", "scratch": "random, as from scratch starts"}
    maps = [feature_map(arrays[arm], arrays["labels"], c.classes, name) for arm, name in named.items()]
    note = "Mean-pooled features of the same labeled images; distances between groups mean nothing."
    return [Group(maps), Text(note, "soft")]


def _reconstructions(c: Comparison) -> list[Block]:
    return reconstructions(read_record(Path(c.document["pretraining"]["run"])))


def _choices(c: Comparison) -> list[Block]:
    rows = []
    for arm in c.document["arms"]:
        tried = ", ".join(f"{t['blr']:g}: {t['error'] or percent(t['val_top1'])}" for t in arm["tried"])
        chosen = NOTHING if arm["blr"] is None else f"{arm['blr']:g}"
        rows.append([share(arm["fraction"]), NAMES[arm["arm"]], tried or "only one to choose from", chosen])
    note = (
        "The rate with the best validation accuracy of the first seed is used for every seed; the test set had no say."
    )
    return [Text(note, "soft"), Table(["labels", "arm", "learning rate per 256 images: validation", "chosen"], rows)]


def _budgets(c: Comparison) -> list[Block]:
    p = c.document["pretraining"]
    own = "before this comparison" if p["seconds"] is None else seconds(p["seconds"])
    rows = [["pre-training", "", number(p["steps"] or NOTHING), own]]
    for arm in c.document["arms"]:
        steps = ", ".join(dict.fromkeys(number(run["steps"]) for run in arm["runs"])) or NOTHING
        spent = [run["seconds"] for run in arm["runs"]]
        rows.append(
            [NAMES[arm["arm"]], share(arm["fraction"]), steps, seconds(float(np.mean(spent)) if spent else None)]
        )
    note = "Both arms take the same steps with the same batches; only the pre-training comes on top."
    return [Text(note, "soft"), Table(["", "labels", "steps", "time of a run"], rows),
            Facts([("in all", seconds(c.document.get("seconds")))])]  # fmt: skip
