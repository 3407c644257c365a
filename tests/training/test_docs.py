"""docs/training.md names every flag of every command, and every default that it shows is the code's."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from training.cli import parse
from training.finetune import FinetuneConfig
from training.pack import PackConfig
from training.pretrain import PretrainConfig
from training.probe import ProbeConfig
from training.recipes import RECIPES

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


@pytest.mark.parametrize(
    ("command", "config"),
    [("pack", PackConfig), ("pretrain", PretrainConfig), ("finetune", FinetuneConfig), ("probe", ProbeConfig)],
)
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


def test_the_page_knows_no_flag_that_the_code_has_not() -> None:
    known = {
        f.name.replace("_", "-") for c in (PackConfig, PretrainConfig, FinetuneConfig, ProbeConfig) for f in fields(c)
    }
    named = set(re.findall(r"`--([a-z-]+)", PAGE))
    assert named <= known | {"classifier"}


def test_every_line_that_packs_is_one_that_the_command_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.strip() for line in PAGE.splitlines() if line.startswith("    python -m training.pack ")]
    lines = [line for line in lines if "--data" in line]
    assert len(lines) >= 8
    for line in lines:
        monkeypatch.setattr("sys.argv", shlex.split(line)[2:])
        config = parse(PackConfig, "training.pack")
        assert config.data
        assert config.out.parent == Path("data")
