"""python -m training.sweep --data DIR --out DIR --mask-ratio 0.5,0.75 --decoder-depth 1,2: a grid of pre-trainings."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.cli.command import Command
from bundle.cli.ending import BAD_RESULT
from bundle.cli.paper import paper
from mae.config import PresetName
from training.assignments import assignments, convert
from training.compute import PrecisionName
from training.errors import run_command
from training.pretrain import PretrainConfig
from training.recipes import RecipeName

AXES = ("mask_ratio", "decoder_depth", "decoder_dim", "patch_size", "depth", "blr", "loss", "target")
_PASSED = ("recipe", "preset", "image_size", "decoder_heads", "epochs", "warmup_epochs", "batch_size", "seed")
_SHARED = ("precision", "device", "checkpoint_minutes")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Pre-train once for every combination of the axes' values, and probe each run.

    The axes are --mask-ratio to --target; each takes one value or a list with commas, and at least one is needed.
    """

    data: str | Path
    """A folder of images, Parquet, or what training.pack wrote."""
    out: Path
    """The folder of the sweep; every run in it that is finished is kept."""
    probe_data: str | Path | None = None
    """Labeled images to probe with. Default: those of --data, where they have labels."""
    test: str | Path | None = None
    """Labeled images that every probe looks at once, at the end. Default: none."""
    label_fraction: float = 1.0
    """Share of each class whose labels the probes use."""
    mask_ratio: str | None = None
    """Axis: shares of the patches that are hidden, such as 0.5,0.75. Default: the recipe's."""
    decoder_depth: str | None = None
    """Axis: numbers of decoder blocks. Default: the recipe's."""
    decoder_dim: str | None = None
    """Axis: widths of the decoder. Default: the recipe's."""
    patch_size: str | None = None
    """Axis: sides of a patch, in pixels. Default: the recipe's."""
    depth: str | None = None
    """Axis: numbers of encoder blocks. Default: the recipe's."""
    blr: str | None = None
    """Axis: learning rates per 256 images of batch. Default: the recipe's."""
    loss: str | None = None
    """Axis: of mse and l1. Default: mse."""
    target: str | None = None
    """Axis: of raw and normalized. Default: the recipe's."""
    recipe: RecipeName | None = None
    """The set of defaults. Default: by the images' size."""
    preset: PresetName | None = None
    """Encoder width and depth. Default: the recipe's."""
    image_size: int | None = None
    """Side of the square that the network sees, in pixels. Default: the recipe's."""
    decoder_heads: int | None = None
    """Heads of each decoder block. Default: the recipe's."""
    epochs: int | None = None
    """Passes over the images, of every run. Default: the recipe's."""
    warmup_epochs: float | None = None
    """Epochs in which the learning rate rises. Default: the recipe's, at most a tenth of the epochs."""
    batch_size: int | None = None
    """Images per step. Default: the recipe's."""
    seed: int = 0
    """Of everything random, the same for every run."""
    precision: PrecisionName = "auto"
    """What is computed in; auto is bf16 where the hardware has it."""
    device: str = "auto"
    """cpu, cuda or one such as cuda:1; auto is the GPU if there is one."""
    checkpoint_minutes: float = 5.0
    """Time between two saved states of a run."""
    pretrain_set: tuple[str, ...] = ()
    """NAME=VALUE for any other flag of training.pretrain."""

    def __post_init__(self) -> None:
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"--label-fraction must lie above 0 and at most at 1, got {self.label_fraction}")
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


COMMAND = Command(
    config=SweepConfig,
    module="training.sweep",
    examples=(
        "python -m training.sweep --data photos --out runs/sweep --mask-ratio 0.5,0.75,0.9",
        "python -m training.sweep --data photos --out runs/sweep --mask-ratio 0.5,0.75 --decoder-depth 1,2 --epochs 50",
        "python -m training.sweep --data photos --probe-data labeled --out runs/sweep --target raw,normalized",
    ),
    page="docs/training.md",
    statuses={1: "done, but one of its runs failed; the others are in the page",
              130: "stopped by Ctrl-C; what is finished is kept, and the same command goes on",
              143: "stopped by SIGTERM; what is finished is kept, and the same command goes on"},
)  # fmt: skip


def grid(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def sweep(config: SweepConfig) -> dict[str, Any]:
    """Do what is not done yet, write sweep.json, sweep.html and sweep.png, and return the first.

    A run that fails is part of the result. Raises TrainingError where the data cannot be used, and Terminated on
    SIGTERM and SIGINT.
    """
    from training import sweeping  # not above: --help does not wait for torch

    return sweeping.sweep(config)


def main() -> None:
    config = COMMAND.parse()
    document = sweep(config)
    from training.sweeping import table

    paper().print(table(document))
    for failed in document["failed"]:
        print(f"failed: {failed['name']}: {failed['error']}")
    print(f"{config.out / 'sweep.html'}")
    if document["failed"]:
        sys.exit(BAD_RESULT)


if __name__ == "__main__":
    run_command(main)
