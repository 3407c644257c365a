"""python -m training: which commands there are."""

from __future__ import annotations

from bundle.cli.command import Group
from training import compare, convert, finetune, pack, pretrain, probe, report, sweep
from training.errors import run_command

GROUP = Group(
    package="training",
    sentence="Pre-train Masked Autoencoders, fine-tune them, and tell how good they are.",
    commands=tuple(module.COMMAND for module in (pack, pretrain, finetune, probe, compare, sweep, convert, report)),
    page="docs/cli.md",
)


if __name__ == "__main__":
    run_command(GROUP.read)
