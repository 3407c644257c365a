"""python -m training.compare --data LABELED --test TEST --out DIR: what does pre-training give over from scratch?"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bundle.cli.command import Command
from bundle.cli.ending import BAD_RESULT
from bundle.cli.paper import paper
from training.assignments import assignments
from training.compute import PrecisionName
from training.errors import run_command
from training.finetune import FinetuneConfig
from training.plans import PlanFlags, PlanName, plan_for
from training.pretrain import PretrainConfig
from training.recipes import NetworkFlags

_OWN = {"data", "out", "seed", "epochs", "batch_size", "resume", "device", "precision", "checkpoint_minutes"}
_OWN |= {f.name for f in fields(NetworkFlags)}
_FINETUNE_OWN = _OWN | {"init", "test", "label_fraction", "blr"}


@dataclass(frozen=True, kw_only=True)
class CompareConfig(PlanFlags):
    """Compare fine-tuning a pre-trained encoder with training from scratch, under equal budgets."""

    data: str | Path
    """Labeled images to fine-tune and probe with; what training.finetune takes."""
    out: Path
    """The folder of the comparison; every run in it that is finished is kept."""
    test: str | Path | None = None
    """Labeled images that each chosen run looks at once. Default: the test split of cifar: and stl10:, which have one;
    needed for others."""
    unlabeled: str | Path | None = None
    """Images to pre-train on. Default: those of --data, without their labels; of stl10: the unlabeled ones with them.
    """
    init: Path | None = None
    """A run of training.pretrain to compare, instead of pre-training here. Default: none."""
    plan: PlanName | None = None
    """A ready comparison, whose values hold where no flag sets them. Default: none."""
    precision: PrecisionName = "auto"
    """What is computed in; auto is bf16 where the hardware has it."""
    device: str = "auto"
    """cpu, cuda or one such as cuda:1; auto is the GPU if there is one."""
    checkpoint_minutes: float = 5.0
    """Time between two saved states of a run."""
    pretrain_set: tuple[str, ...] = ()
    """NAME=VALUE for any other flag of training.pretrain."""
    finetune_set: tuple[str, ...] = ()
    """NAME=VALUE for any other flag of training.finetune, for both arms."""

    def __post_init__(self) -> None:
        if self.test_data is None:
            raise ValueError(f"{self.data} has no test split of its own; give --test, labeled images to look at once")
        plan_for(self.plan, self)  # these raise for what no plan and no run takes
        self.pretrain_options()
        self.finetune_options()
        if self.init is None:
            return
        own = [f.name for f in fields(NetworkFlags)] + ["unlabeled", "pretrain_epochs", "pretrain_batch_size"]
        ignored = [name for name in own if getattr(self, name) is not None]
        if ignored or self.pretrain_set:
            name = ignored[0] if ignored else "pretrain_set"
            raise ValueError(f"--{name.replace('_', '-')} does not go with --init, which is pre-trained already")

    @property
    def test_data(self) -> str | Path | None:
        """--test, or what stands for it."""
        return self.test if self.test is not None else _other_split(self.data, cifar="test", stl10="test")

    @property
    def unlabeled_data(self) -> str | Path | None:
        """--unlabeled, or what stands for it; None for the images of --data."""
        return self.unlabeled if self.unlabeled is not None else _other_split(self.data, stl10="train+unlabeled")

    def pretrain_options(self) -> dict[str, Any]:
        """What --pretrain-set sets."""
        return assignments(PretrainConfig, "--pretrain-set", self.pretrain_set, _OWN)

    def finetune_options(self) -> dict[str, Any]:
        """What --finetune-set sets."""
        return assignments(FinetuneConfig, "--finetune-set", self.finetune_set, _FINETUNE_OWN)


COMMAND = Command(
    config=CompareConfig,
    module="training.compare",
    examples=(
        "python -m training.compare --data labeled --test held-out --out runs/compare --plan quick",
        "python -m training.compare --data labeled --test held-out --unlabeled photos --out runs/compare",
        "python -m training.compare --data labeled --test held-out --init runs/photos --out runs/compare --seeds 0 1",
        "python -m training.compare --data stl10:stl10_binary --out runs/stl10 --plan stl10",
    ),
    page="docs/training.md",
    statuses={1: "done, but one of its runs failed; the others are in the page",
              130: "stopped by Ctrl-C; what is finished is kept, and the same command goes on",
              143: "stopped by SIGTERM; what is finished is kept, and the same command goes on"},
)  # fmt: skip


def _other_split(data: str | Path, **splits: str) -> str | None:
    from sources import other_split  # not above: --help does not wait for pyarrow

    return other_split(data, **splits)


def compare(config: CompareConfig) -> dict[str, Any]:
    """Do what is not done yet, write compare.json and compare.html, and return the former.

    A run that fails is part of the result. Raises TrainingError where the data or the pre-training fail, and
    Terminated on SIGTERM and SIGINT.
    """
    from training import comparing  # not above: --help does not wait for torch

    return comparing.compare(config)


def main() -> None:
    config = COMMAND.parse()
    document = compare(config)
    from training.comparing import table

    paper().print(table(document))
    for failed in document["failed"]:
        print(f"failed: {failed['name']}: {failed['error']}")
    print(f"{config.out / 'compare.html'}")
    if document["failed"]:
        sys.exit(BAD_RESULT)


if __name__ == "__main__":
    run_command(main)
