"""What is pre-training worth with few labels, and is HTTP's accuracy torch's?

    python -m benchmarks.few_labels --name cifar10 --work /tmp/cifar10 --test cifar10-test.parquet -- \
        --data cifar10-train.parquet --plan cifar10

`python -m training.compare` with the flags behind `--`, and beside its page a result that is small enough to
keep. Then the first fine-tuned classifier with the most labels is exported, and names the test images over HTTP. What
is done is not done again, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.commands import pretraining_cost, run_module
from benchmarks.labeled import classified, read_files
from benchmarks.load.requests import read_photos
from benchmarks.load.servers import Server, ours
from benchmarks.report import RESULTS, Report
from service.client import Client
from training.pages.comparison import COMPARE_FILE, NAMES, Comparison, epochs_to_reach, share, validation_curves
from training.pages.palette import series
from training.pages.pieces import mean_std, percent
from training.pages.record import FEATURES_FILE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the comparison and the bundle")
    parser.add_argument("--test", type=Path, required=True, help="labeled images that the chosen runs look at once")
    parser.add_argument("flags", nargs="*", help="behind --: those of training.compare, --data at least")
    args = parser.parse_args()
    folder, bundle = args.work / "comparison", args.work / "bundle"
    report = Report(f"few_labels_{args.name}", __doc__ or "")
    run_module(report, "compare", "training.compare", "--out", folder, "--test", args.test, *args.flags)
    found = Comparison(folder, json.loads((folder / COMPARE_FILE).read_text()))
    pretrained = Path(found.document["pretraining"]["run"])
    report.add("pre-training", pretraining_cost(pretrained))
    report.table(*results(found))
    report.table(*probes(found))
    chosen = found.records("pretrained", max(found.fractions))[0]
    if not bundle.exists():
        run_module(report, "export", "export", pretrained, "--classifier", chosen.folder, "--out", bundle)
    report.add("that classifier in torch", percent(chosen.metrics["test_top1"]))
    report.add("and through POST /classify", percent(http_accuracy(bundle, args.test)))
    report.picture(draw(found, report.name))
    report.write()


def results(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """The test set by share of labels, and how soon the pre-trained one is as good as the other ever gets."""
    rows = []
    for fraction in found.fractions:
        ours, theirs = (found.summary(arm, fraction) for arm in NAMES)
        gain = (
            "" if ours is None or theirs is None else f"{100 * (ours['mean'] or 0) - 100 * (theirs['mean'] or 0):+.1f}"
        )
        curves = [validation_curves(found.records(arm, fraction)) for arm in NAMES]
        reached = [epochs_to_reach(*pair) for pair in zip(*curves, strict=False)]
        epochs = f"{', '.join(map(str, reached))} of {curves[0].shape[1]}"
        rates = " / ".join(f"{found.arm(arm, fraction)['blr']:g}" for arm in NAMES)
        rows.append([share(fraction), mean_std(ours), mean_std(theirs), gain, epochs, rates])
    header = ["labels", *(f"{name}, top-1" for name in NAMES.values()), "points", "epochs to its best", "chosen rates"]
    return header, rows


def part(summary: Mapping[str, float | None] | None, name: str) -> float:
    """A mean or a deviation; 0 where no run is finished, or just one."""
    return (summary or {}).get(name) or 0.0


def probes(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Of the frozen encoder."""
    rows: Sequence[dict[str, Any]] = [probe for probe in found.document["probes"] if probe["metrics"]]
    names = [name for name in dict.fromkeys(n for row in rows for n in row["metrics"]) if name.endswith("test_top1")]
    header = ["labels", *(name.removesuffix("_test_top1").replace("_", " ") for name in names)]
    return header, [[share(row["fraction"]), *(percent(row["metrics"].get(n)) for n in names)] for row in rows]


def http_accuracy(bundle: Path, test: Path) -> float:
    """The share of the encoded test images that the service names rightly."""
    images = read_files(str(test))
    with (
        Server(ours(bundle), read_photos(None)[:1]) as server,
        Client(f"http://127.0.0.1:{server.port}", images_per_request=64) as client,
    ):
        return float(classified(client, images, top_k=1).mean())


def draw(found: Comparison, name: str) -> str:
    """Curves, confusion and maps of both encoders with the most labels; the file's name."""
    fraction = max(found.fractions)
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    for number, (arm, label) in enumerate(NAMES.items()):
        records = found.records(arm, fraction)
        curves = 100 * validation_curves(records)
        epochs = np.arange(1, curves.shape[1] + 1)
        axes[0, 0].fill_between(epochs, curves.min(0), curves.max(0), color=series(number), alpha=0.2, linewidth=0)
        axes[0, 0].plot(epochs, curves.mean(0), color=series(number), label=label)
        means = [found.summary(arm, each) for each in found.fractions]
        places = np.arange(len(means)) + 0.4 * number - 0.2
        heights, spread = ([100 * part(each, name) for each in means] for name in ("mean", "std"))
        axes[1, 0].bar(places, heights, 0.38, yerr=spread, color=series(number), label=label)
        confuse(axes[number, 1], records[0].arrays("predictions.npz"), found.classes, label)
        scatter(axes[number, 2], np.load(found.folder / FEATURES_FILE), arm)
    axes[0, 0].set(title=f"validation, {share(fraction)} of the labels", xlabel="epoch", ylabel="% right")
    axes[1, 0].set(title="test", xlabel="labels", ylabel="% right")
    axes[1, 0].set_xticks(range(len(found.fractions)), [share(each) for each in found.fractions])
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False, loc="lower right")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=90, metadata={"Software": None})
    return f"{name}.png"


def confuse(axes: Any, predictions: Any, classes: Sequence[str], label: str) -> None:
    """Rows: the true class; dark: many."""
    truth, guess = predictions["test_labels"], predictions["test_logits"].argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (truth, guess), 1)
    axes.imshow(counts / counts.sum(axis=1, keepdims=True).clip(1), cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes)) if len(classes) <= 20 else []
    axes.set_xticks(ticks, [classes[i] for i in ticks], rotation=90, fontsize=7)
    axes.set_yticks(ticks, [classes[i] for i in ticks], fontsize=7)
    axes.set_title(f"{label}: true (row), guessed", fontsize=10)


def scatter(axes: Any, arrays: Any, arm: str) -> None:
    """t-SNE of the frozen features before any fine-tuning."""
    points, labels = arrays[arm], arrays["labels"]
    axes.scatter(*points.T, c=[series(int(label)) for label in labels], s=4, linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"t-SNE, {'pre-trained' if arm == 'pretrained' else 'random'} encoder", fontsize=10)


if __name__ == "__main__":
    main()
