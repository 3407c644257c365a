"""What training.sweep does: every run of a grid, and the document of what came of them.

Each is followed by a linear probe where there are labels, because losses compare within one target, loss and mask ratio
alone. Every run of the grid is done once: the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from training.data import open_data, open_test, require_classes
from training.device import pick_device
from training.errors import TrainingError
from training.experiments import Experiment, steps_of, stoppable, write_json
from training.packed import PackedDataset
from training.pages.grid import SWEEP_FILE, readable, write_sweep
from training.pages.pieces import NOTHING, number, percent
from training.pages.record import command_line
from training.pretrain import PretrainConfig, pretrain
from training.probe import ProbeConfig, probe
from training.recipes import RECIPES
from training.run import circumstances
from training.sweep import AXES, SweepConfig, grid

_FREE = {"out", "data", "probe_data", "device", "checkpoint_minutes", *AXES}


class _Labeled(NamedTuple):
    """What the probes learn from, and what each looks at once."""

    data: PackedDataset
    test: PackedDataset | None


def sweep(config: SweepConfig) -> dict[str, Any]:
    """As training.sweep.sweep."""
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
            "tested": labeled is not None and labeled.test is not None,
            "failed": [{"name": o.name, "error": o.error} for o in experiment.failed],
        }  # fmt: skip
        write_json(config.out / SWEEP_FILE, document)
        write_sweep(config.out)
    return document


def _labeled(config: SweepConfig, packed: PackedDataset) -> _Labeled | None:
    """What to probe with; None where labels were not asked for and are not there."""
    labeled = packed
    if config.probe_data is not None:
        cache = config.out / "pack-probe"
        labeled = open_data(config.probe_data, cache, size=packed.info.size, channels=packed.info.channels)
    try:
        classes = require_classes(labeled)
    except TrainingError:
        if config.probe_data is None and config.test is None:
            return None
        raise
    test = None if config.test is None else open_test(config.test, config.out, labeled, classes)
    return _Labeled(labeled, test)


def _cell(
    config: SweepConfig,
    experiment: Experiment,
    packed: PackedDataset,
    labeled: _Labeled | None,
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
            data=labeled.data.folder, test=None if labeled.test is None else labeled.test.folder, init=run.folder,
            out=experiment.folder(f"{name}_probe"), label_fraction=config.label_fraction, seed=config.seed,
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
    tested = ["test"] if document["tested"] else []
    shown = Table(*map(readable, document["axes"]), "probe", *tested, "loss", "seconds")
    for cell in cells:
        metrics = cell["metrics"]
        shown.add_row(
            *map(str, cell["values"].values()),
            "failed" if cell["error"] else percent(metrics.get("probe_val_top1")),
            *(percent(metrics.get("probe_test_top1")) for _ in tested),
            number(metrics.get("reconstruction_loss", NOTHING)), f"{cell['seconds']:.1f}",
        )  # fmt: skip
    return shown
