"""The runs of benchmarks.ablations: what is another than in the recipe, one thing at a time, and what that came to."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.keep import Labeled, encode, fitted_hits, in_turns
from benchmarks.report import Report, paired_ratio
from bundle.cli.words import counted
from bundle.masking import keep_ids
from bundle.preprocess import center_crop
from bundle.store import Bundle, load_bundle
from export.config import ExportConfig
from export.pipeline import export_run
from mae.config import Feature, Loss, Target
from runtime.agreement import cosines
from runtime.base import Arrays, Runtime
from runtime.select import open_runtime
from training.data import open_data, open_test, require_classes
from training.errors import TrainingError
from training.experiments import RUNS, Experiment
from training.packed import PackedDataset
from training.pretrain import PretrainConfig
from training.probe import ProbeConfig, probe
from training.recipes import RECIPES, choose_recipe
from training.sweep import SweepConfig, sweep

TRAINED = ("mask_ratio", "decoder_depth", "loss", "target")
POOLINGS: dict[str, tuple[Feature, ...]] = {"cls": ("cls",), "mean": ("mean",), "both": ("cls", "mean")}
_FIT, TESTED, _TIMED, _ROUNDS = 10_000, 5_000, 512, 5  # images of benchmarks.keep at most, and turns of its timing
_PENALTY = 1e-4


@dataclass
class Cell:
    """One value of an axis. runs: the pre-training of every seed that did not fail; minutes: of those, in all."""

    value: str
    is_recipe: bool
    runs: list[Path] = field(default_factory=list)
    top1: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    minutes: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kept:
    """What is left at this keep. speed: times that of all patches; likeness: mean cosine to the mean of all patches."""

    keep: float
    patches: int
    speed: float
    likeness: float
    top1: float


@dataclass(frozen=True)
class Study:
    """own: the recipe's value of every trained axis."""

    args: argparse.Namespace
    train: PackedDataset
    test: PackedDataset
    own: dict[str, Any]

    def values(self, axis: str) -> list[Any]:
        """The recipe's own among them."""
        asked: dict[str, Sequence[Any]] = {
            "mask_ratio": self.args.mask_ratios, "decoder_depth": self.args.decoder_depths, "loss": get_args(Loss),
            "target": get_args(Target),
        }  # fmt: skip
        values = list(dict.fromkeys([*asked[axis], self.own[axis]]))
        return values if isinstance(values[0], str) else sorted(values)

    def config(self, seed: int, axis: str | None = None) -> SweepConfig:
        """Of all values of the axis, None: of the recipe's own run. Every cell is named by all four, so that one that
        several axes share is one folder, which a sweep finds finished.
        """
        args, grid = self.args, {name: [value] for name, value in self.own.items()}
        if axis is not None:
            grid[axis] = self.values(axis)
        asked: dict[str, Any] = {name: ",".join(map(str, values)) for name, values in grid.items()}
        return SweepConfig(
            data=self.train.folder, test=self.test.folder, out=args.work / f"seed-{seed}", seed=seed,
            **asked,
            depth=None if args.depth is None else str(args.depth), blr=None if args.blr is None else str(args.blr),
            recipe=args.recipe, epochs=args.epochs, batch_size=args.batch_size, device=args.device,
            label_fraction=args.label_fraction, pretrain_set=("probe_every=0", "report=false"),
        )  # fmt: skip

    def cells(self, axis: str) -> list[Cell]:
        """Do what is not done yet."""
        cells = [Cell(str(value), value == self.own[axis]) for value in self.values(axis)]
        for seed in self.args.seeds:
            config = self.config(seed, axis)
            for cell, found in zip(cells, sweep(config)["cells"], strict=True):
                if found["error"] is not None:
                    cell.errors.append(found["error"])
                    continue
                cell.runs.append(config.out / RUNS / found["name"])
                cell.top1.append(found["metrics"]["probe_test_top1"])
                cell.losses.append(found["metrics"]["reconstruction_loss"])
                cell.minutes.append(found["seconds"] / 60)
        return cells

    def recipe_runs(self) -> list[Path]:
        """The recipe's own run of every seed. Raises TrainingError where one fails: the others are held against it."""
        runs = []
        for seed in self.args.seeds:
            config = self.config(seed)
            (found,) = sweep(config)["cells"]
            if found["error"] is not None:
                raise TrainingError(f"the recipe's own run of seed {seed} failed: {found['error']}")
            runs.append(config.out / RUNS / found["name"])
        return runs

    def poolings(self, runs: Sequence[Path]) -> list[Cell]:
        """Probes of the recipe's own runs, each given one kind of feature."""
        cells = []
        for name, features in POOLINGS.items():
            cell = Cell(name, is_recipe=False)
            for seed, run in zip(self.args.seeds, runs, strict=True):
                experiment = Experiment(self.args.work / f"seed-{seed}" / "poolings", {}, set())
                outcome = experiment.run("probe", ProbeConfig(
                    data=self.train.folder, test=self.test.folder, init=run, features=features, seed=seed,
                    out=experiment.folder(f"{run.name}_{name}"), label_fraction=self.args.label_fraction,
                    device=self.args.device, report=False,
                ), probe)  # fmt: skip
                if outcome.error is None:
                    cell.top1.append(outcome.metrics["probe_test_top1"])
                else:
                    cell.errors.append(outcome.error)
            cells.append(cell)
        return cells

    def spread(self, top1: Sequence[float]) -> float:
        """The standard deviation over the seeds; of one seed the standard error that so many test images leave."""
        if len(top1) > 1:
            return statistics.stdev(top1)
        return float((top1[0] * (1 - top1[0]) / len(self.test)) ** 0.5)


def open_study(args: argparse.Namespace) -> Study:
    """Pack what is not packed. Raises TrainingError for data that cannot be used, ValueError for values."""
    named = None if args.recipe is None else RECIPES[args.recipe]
    train = open_data(args.data, args.work / "pack", size=None if named is None else named.pack_size)
    test = open_test(args.test, args.work, train, require_classes(train))
    recipe = named or choose_recipe(min(train.info.size))
    own = {
        "mask_ratio": recipe.mask_ratio, "decoder_depth": recipe.decoder_depth, "loss": PretrainConfig.loss,
        "target": recipe.target,
    }  # fmt: skip
    study = Study(args, train, test, own)
    for axis in TRAINED:
        study.config(args.seeds[0], axis)  # raises before the first run
    return study


def measure_keeps(study: Study, run: Path, report: Report) -> Iterator[Kept]:
    """On the export of this run, all patches first."""
    out = run.parents[1] / "bundles" / run.name
    config = ExportConfig(run=run, out=out, precision="fp32", name="ablations")
    bundle = load_bundle(out) if out.exists() else export_run(config, print)
    fit, test = (labeled(packed, bundle, n) for packed, n in ((study.train, _FIT), (study.test, TESTED)))
    runtime = open_runtime(bundle, device="cpu" if study.args.device == "cpu" else "auto", precision="fp32")
    try:
        report.add(
            "keep", f"first seed; {runtime.name} on {runtime.device}; a logistic regression on cls and mean, fitted on "
            f"{counted(len(fit.labels), 'image')} at this keep, tested on {len(test.labels):,}",
        )  # fmt: skip
        yield from _keeps(study.args.keeps, runtime, bundle, fit, test)
    finally:
        runtime.close()


def _keeps(keeps: Sequence[float], runtime: Runtime, bundle: Bundle, fit: Labeled, test: Labeled) -> Iterator[Kept]:
    batch = 256 if runtime.device.startswith("cuda") else 8
    keeps = sorted({1.0, *keeps}, reverse=True)
    rates = in_turns(runtime, bundle, test.pixels[:_TIMED], keeps, batch, _ROUNDS)
    whole: Arrays | None = None
    for keep in keeps:
        features = encode(runtime, bundle, test.pixels, keep, batch)
        whole = whole or features
        fitted = encode(runtime, bundle, fit.pixels, keep, batch)
        yield Kept(
            keep=keep, patches=len(keep_ids(bundle.manifest.model.num_patches, keep)),
            speed=paired_ratio(rates[keep], rates[1.0]),
            likeness=float(cosines(features["mean"], whole["mean"]).mean()),
            top1=float(fitted_hits(fitted, fit.labels, features, test.labels, _PENALTY).mean()),
        )  # fmt: skip


def labeled(packed: PackedDataset, bundle: Bundle, count: int) -> Labeled:
    """Up to `count` images all over the set, as the service would see them."""
    ids = np.linspace(0, len(packed) - 1, min(count, len(packed))).astype(np.int64)
    pixels = np.ascontiguousarray(center_crop(packed.pixels(ids), bundle.manifest.model.image_size))
    return Labeled(pixels, packed.labels[ids], require_classes(packed))
