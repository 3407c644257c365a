"""docs/training.md names every flag of every command, and every default that it shows is the code's."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from training.finetune import FinetuneConfig
from training.inrun_probe import ProbeFlags
from training.pack import PackConfig
from training.pretrain import PretrainConfig
from training.probe import ProbeConfig
from training.recipes import RECIPES

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("pack", PackConfig),
        ("pretrain", PretrainConfig),
        ("pretrain", ProbeFlags),
        ("finetune", FinetuneConfig),
        ("probe", ProbeConfig),
    ],
)
def test_every_flag_is_in_its_command_s_table(command: str, config: Any) -> None:
    table = PAGE.split(f"| flag of {command} |")[1].split("\n\n")[0]
    missing = [f.name for f in fields(config) if f"`--{f.name.replace('_', '-')}`" not in table]
    assert not missing


def test_what_the_probe_chooses_from_is_the_code_s() -> None:
    defaults = {f.name: f.default for f in fields(ProbeConfig)}
    for name in ("neighbors", "penalties"):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `--{name}` |"))
        assert tuple(float(cell) for cell in row.split("|")[2].split()) == defaults[name]


def test_the_recipes_are_those_of_the_code() -> None:
    for name, r in RECIPES.items():
        decoder = f"{r.decoder_dim} x {r.decoder_depth}"
        blr = f"{r.blr:.1e}".replace(".0e", "e").replace("e-0", "e-")
        cells = [r.pack_size[0], r.image_size[0], r.patch_size, r.preset, decoder, r.batch_size, r.epochs, blr]
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        assert [cell.strip() for cell in row.split("|")[3:-1]] == [str(cell) for cell in cells]


def test_the_page_knows_no_flag_that_the_code_has_not() -> None:
    flags = [f for c in (PackConfig, PretrainConfig, FinetuneConfig, ProbeConfig, ProbeFlags) for f in fields(c)]
    known = {f.name.replace("_", "-") for f in flags}
    switches = {f"no-{f.name.replace('_', '-')}" for f in flags if f.type == "bool"}
    named = set(re.findall(r"`--([a-z-]+)", PAGE))
    assert named <= known | switches | {"classifier"}
