"""python -m training.finetune --data DIR --init RUN --out RUN2: train a classifier on labeled images, end to end."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from bundle.cli.command import Command
from mae.config import Pooling
from training.compute import ComputeFlags
from training.errors import is_main_process, run_command
from training.finetune_recipes import FINETUNE_RECIPES, FinetuneFlags, override
from training.logs import LogFlags
from training.recipes import NetworkFlags


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FinetuneFlags, NetworkFlags, ComputeFlags, LogFlags):
    """Fine-tune a pre-trained encoder on labeled images.

    With --init none the same network is trained from scratch.
    """

    data: str | Path
    """Labeled images: a folder with one sub-folder per class, Parquet with a column `label`, or a packed set."""
    out: Path
    """The run's folder."""
    init: Path
    """The run of training.pretrain or foreign weights to start from; `none`: the recipe and the flags choose."""
    test: str | Path | None = None
    """Labeled images that are looked at once, at the end. Default: none."""
    pooling: Pooling = "mean"
    """What the classifier sees: the class token, or the mean of the patches."""
    label_fraction: float = 1.0
    """Share of each class whose labels are used, the validation split included."""
    val_fraction: float = 0.1
    """Share of those that is held out for validation."""
    seed: int = 0
    """Of everything random."""
    resume: bool = False
    """Go on with the run in --out, or begin it where there is none."""

    def __post_init__(self) -> None:
        ComputeFlags.__post_init__(self)
        if self.feed == "stream":
            raise ValueError("--feed stream has no labels; fine-tune on packed images")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, got {self.seed}")
        override(FINETUNE_RECIPES["plain"], self)  # raises for what no recipe takes
        ignored = [f.name for f in fields(NetworkFlags) if getattr(self, f.name) is not None]
        if ignored and not self.from_scratch:
            raise ValueError(f"--{ignored[0].replace('_', '-')} goes with --init none; a run brings its own network")

    @property
    def from_scratch(self) -> bool:
        return str(self.init) == "none"


COMMAND = Command(
    config=FinetuneConfig,
    module="training.finetune",
    examples=(
        "python -m training.finetune --data labeled --init runs/photos --out runs/tuned",
        "python -m training.finetune --data labeled --test held-out --init runs/photos --out runs/tuned --epochs 30",
        "python -m training.finetune --data labeled --init none --recipe px32 --out runs/scratch",
    ),
    page="docs/training.md",
    statuses={1: "the training went wrong, as by a loss that is not finite",
              130: "stopped by Ctrl-C, with the state saved: --resume goes on",
              143: "stopped by SIGTERM, with the state saved: --resume goes on"},
)  # fmt: skip


def finetune(config: FinetuneConfig) -> dict[str, float]:
    """Train, evaluate on validation and, once, on the test set; returns the metrics that run.json keeps.

    Raises TrainingError for data or runs that do not fit, and Terminated on SIGTERM.
    """
    from training import finetuning  # not above: --help does not wait for torch

    return finetuning.finetune(config)


def main() -> None:
    config = COMMAND.parse()
    metrics = finetune(config)
    if is_main_process():
        print(f"{config.out}: " + ", ".join(f"{name} {value:.2%}" for name, value in metrics.items()))


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on with what is packed")
