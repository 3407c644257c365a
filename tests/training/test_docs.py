"""docs/training.md names every flag of every command, and every default that it shows is the code's."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from training.compare import CompareConfig
from training.finetune import FinetuneConfig
from training.pack import PackConfig
from training.plans import PLANS, Plan
from training.pretrain import PretrainConfig
from training.probe import ProbeConfig
from training.recipes import RECIPES
from training.report import ReportConfig
from training.sweep import SweepConfig

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


COMMANDS = {
    "pack": PackConfig, "pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig,
    "report": ReportConfig, "compare": CompareConfig, "sweep": SweepConfig,
}  # fmt: skip


@pytest.mark.parametrize(("command", "config"), COMMANDS.items())
def test_every_flag_is_in_its_command_s_table(command: str, config: Any) -> None:
    table = PAGE.split(f"| flag of {command} |")[1].split("\n\n")[0]
    missing = [f.name for f in fields(config) if f"`--{f.name.replace('_', '-')}`" not in table]
    assert not missing


def test_the_recipes_are_those_of_the_code() -> None:
    for name, r in RECIPES.items():
        decoder = f"{r.decoder_dim} x {r.decoder_depth}"
        blr = f"{r.blr:.1e}".replace(".0e", "e").replace("e-0", "e-")
        cells = [r.pack_size[0], r.image_size[0], r.patch_size, r.preset, decoder, r.batch_size, r.epochs, blr]
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        assert [cell.strip() for cell in row.split("|")[3:-1]] == [str(cell) for cell in cells]


def test_the_plans_are_those_of_the_code() -> None:
    for name, plan in {"none": Plan(), **{f"`{name}`": plan for name, plan in PLANS.items()}}.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        lists = [[float(value) for value in cell.split()] for cell in cells[3:]]
        assert lists == [list(plan.fractions), list(plan.seeds), list(plan.blrs)]
        assert cells[1:3] == [str(plan.pretrain_epochs or "recipe"), str(plan.epochs or "recipe")]
        assert cells[0].startswith(plan.recipe or "by the images")


def test_the_page_knows_no_flag_that_the_code_has_not() -> None:
    known = {f.name.replace("_", "-") for config in COMMANDS.values() for f in fields(config)}
    named = set(re.findall(r"`--([a-z-]+)", PAGE))
    assert named <= known | {"classifier"}
