"""python -m training.sweep --data DIR --out DIR --mask-ratio 0.5,0.75 --decoder-depth 1,2,4: a grid of pre-trainings.

Each is followed by a linear probe where there are labels, because losses compare within one target, loss and mask ratio
alone. Every run of the grid is done once: the same command goes on where it was stopped.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mae.config import PresetName
from training.cli import parse
from training.data import open_data, require_classes
from training.device import PrecisionName, pick_device
from training.errors import EXIT_USAGE, TrainingError, run_command
from training.experiments import Experiment, assignments, convert, steps_of, stoppable, write_json
from training.packed import PackedDataset
from training.pages.grid import SWEEP_FILE, readable, write_sweep
from training.pages.pieces import NOTHING, number, percent
from training.pages.record import command_line
from training.pretrain import PretrainConfig, pretrain
from training.probe import ProbeConfig, probe
from training.recipes import RECIPES, RecipeName
from training.run import circumstances

AXES = ("mask_ratio", "decoder_depth", "decoder_dim", "patch_size", "depth", "blr", "loss", "target")
_PASSED = ("recipe", "preset", "image_size", "decoder_heads", "epochs", "warmup_epochs", "batch_size", "seed")
_SHARED = ("precision", "device", "checkpoint_minutes")
_FREE = {"out", "data", "probe_data", "device", "checkpoint_minutes", *AXES}


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Pre-train once for every combination of the axes' values, which are lists with commas, and probe each run."""

    data: str | Path
    """A folder of images, Parquet, or what training.pack wrote."""
    out: Path
    """The folder of the sweep; every run in it that is finished is kept."""
    probe_data: str | Path | None = None
    """Labeled images to probe with. Default: those of --data, where they have labels."""
    mask_ratio: str | None = None
    decoder_depth: str | None = None
    decoder_dim: str | None = None
    patch_size: str | None = None
    depth: str | None = None
    blr: str | None = None
    loss: str | None = None
    target: str | None = None
    recipe: RecipeName | None = None
    preset: PresetName | None = None
    image_size: int | None = None
    decoder_heads: int | None = None
    epochs: int | None = None
    warmup_epochs: float | None = None
    batch_size: int | None = None
    seed: int = 0
    precision: PrecisionName = "auto"
    device: str = "auto"
    checkpoint_minutes: float = 5.0
    pretrain_set: tuple[str, ...] = ()
    """NAME=VALUE for any other flag of training.pretrain."""

    def __post_init__(self) -> None:
        axes = self.axes  # raises for values that a run's flags do not take
        if not axes:
            raise ValueError("a sweep needs at least one axis, such as --mask-ratio 0.5,0.75,0.9")
        for name, values in axes.items():
            if len(set(values)) < len(values):
                raise ValueError(f"--{name.replace('_', '-')} must not name a value twice, got {getattr(self, name)}")
        for combination in grid(axes):
            PretrainConfig(
                data=str(self.data), out=self.out, **self.passed(), **combination
            )  # raises before the first run

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The values of every axis that is given."""
        given = {name: getattr(self, name) for name in AXES if getattr(self, name) is not None}
        return {
            name: [convert(PretrainConfig, name, v.strip()) for v in text.split(",")] for name, text in given.items()
        }

    @property
    def varied(self) -> dict[str, list[Any]]:
        """The axes that have several values; all that are given where none has."""
        return {name: values for name, values in self.axes.items() if len(values) > 1} or self.axes

    def passed(self) -> dict[str, Any]:
        """What every run of the grid is given alike."""
        own = {"data", "out", "resume", *AXES, *_PASSED, *_SHARED}
        options = assignments(PretrainConfig, "--pretrain-set", self.pretrain_set, own)
        return {name: getattr(self, name) for name in (*_PASSED, *_SHARED)} | options


def grid(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def sweep(config: SweepConfig) -> dict[str, Any]:
    """Do what is not done yet, write sweep.json, sweep.html and sweep.png, and return the first.

    A run that fails is part of the result. Raises TrainingError where the data cannot be used, and Terminated on
    SIGTERM and SIGINT.
    """
    with stoppable():
        pick_device(config.device)  # raises before anything is done
        experiment = Experiment(config.out, asdict(config), _FREE)
        began = circumstances()
        size = None if config.recipe is None else RECIPES[config.recipe].pack_size
        packed = open_data(config.data, config.out / "pack", size=size)
        labeled = _labeled(config, packed)
        cells = [_cell(config, experiment, packed, labeled, values) for values in grid(config.axes)]
        document = {
            "status": "failed" if experiment.failed else "finished",
            "command": command_line("python -m training.sweep", asdict(config)),
            "config": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
            **began,
            "data": {"name": packed.info.name, "num_images": len(packed)},
            "axes": config.varied, "cells": cells, "probed": labeled is not None,
            "failed": [{"name": o.name, "error": o.error} for o in experiment.failed],
        }  # fmt: skip
        write_json(config.out / SWEEP_FILE, document)
        write_sweep(config.out)
    return document


def _labeled(config: SweepConfig, packed: PackedDataset) -> PackedDataset | None:
    """What to probe with; None where labels were not asked for and are not there."""
    if config.probe_data is None:
        try:
            require_classes(packed)
        except TrainingError:
            return None
        return packed
    cache = config.out / "pack-probe"
    labeled = open_data(config.probe_data, cache, size=packed.info.size, channels=packed.info.channels)
    require_classes(labeled)
    return labeled


def _cell(
    config: SweepConfig,
    experiment: Experiment,
    packed: PackedDataset,
    labeled: PackedDataset | None,
    values: dict[str, Any],
) -> dict[str, Any]:
    """One combination: the pre-training, and the probe of what came of it."""
    name = "_".join(f"{axis.replace('_', '-')}-{value}" for axis, value in values.items())
    run = experiment.run("pretrain", PretrainConfig(
        data=str(packed.folder), out=experiment.folder(name), resume=True, **config.passed(), **values,
    ), pretrain)  # fmt: skip
    metrics, error = dict(run.metrics), run.error
    if labeled is not None and error is None:
        probed = experiment.run("probe", ProbeConfig(
            data=labeled.folder, init=run.folder, out=experiment.folder(f"{name}_probe"), seed=config.seed,
            device=config.device,
        ), probe)  # fmt: skip
        metrics, error = metrics | dict(probed.metrics), probed.error
    return {
        "name": name,
        "values": {axis: values[axis] for axis in config.varied},
        "metrics": metrics,
        "seconds": run.seconds,
        "steps": steps_of(run.folder),
        "error": error,
    }


def table(document: Mapping[str, Any]) -> Table:
    """What the command prints: the best first where there is a probe."""
    cells = document["cells"]
    if document["probed"]:
        cells = sorted(cells, key=lambda cell: -cell["metrics"].get("probe_val_top1", -1.0))
    shown = Table(*map(readable, document["axes"]), "probe", "loss", "seconds")
    for cell in cells:
        metrics = cell["metrics"]
        shown.add_row(
            *map(str, cell["values"].values()),
            "failed" if cell["error"] else percent(metrics.get("probe_val_top1")),
            number(metrics.get("reconstruction_loss", NOTHING)), f"{cell['seconds']:.1f}",
        )  # fmt: skip
    return shown


def main() -> None:
    config = parse(SweepConfig, "training.sweep")
    document = sweep(config)
    Console().print(table(document))
    for failed in document["failed"]:
        print(f"failed: {failed['name']}: {failed['error']}")
    print(f"{config.out / 'sweep.html'}")
    if document["failed"]:
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    run_command(main)
