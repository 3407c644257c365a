"""docs/training.md names every flag of every command, and every default that it shows is the code's."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from mae.masking import num_keep
from mae.model import MaskedAutoencoder
from training.compare import CompareConfig
from training.convert import ConvertConfig
from training.finetune import FinetuneConfig
from training.finetune_recipes import FINETUNE_RECIPES
from training.flops import pretrain_flops
from training.pack import COMMAND, PackConfig
from training.packed import PackInfo
from training.plans import PLANS, Plan
from training.pretrain import PretrainConfig
from training.probe import ProbeConfig
from training.recipes import RECIPES
from training.report import ReportConfig
from training.sweep import SweepConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE, WEIGHTS_PAGE = (DOCS / "training.md").read_text(), (DOCS / "weights.md").read_text()


COMMANDS = {
    "pack": PackConfig, "pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig,
    "convert": ConvertConfig, "report": ReportConfig, "compare": CompareConfig, "sweep": SweepConfig,
}  # fmt: skip


@pytest.mark.parametrize(("command", "config"), COMMANDS.items())
def test_every_flag_is_in_its_command_s_table(command: str, config: Any) -> None:
    table = PAGE.split(f"| flag of {command} |")[1].split("\n\n")[0]
    names = ["`IN`" if f.name == "source" else f"`--{f.name.replace('_', '-')}`" for f in fields(config)]
    missing = [name for name in names if name not in table]
    assert not missing


def test_what_the_probe_chooses_from_is_the_code_s() -> None:
    defaults = {f.name: f.default for f in fields(ProbeConfig)}
    for name in ("neighbors", "penalties"):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `--{name}` |"))
        assert tuple(float(cell) for cell in row.split("|")[2].split()) == defaults[name]


def test_the_recipes_are_those_of_the_code() -> None:
    for name, r in RECIPES.items():
        decoder = f"{r.decoder_dim} x {r.decoder_depth}"
        stages = ", ".join(f"{side} px to {100 * share:.0f} %" for share, side in r.stages)
        cells = [
            r.pack_size[0], r.image_size[0], r.patch_size, r.preset, decoder, r.mask_ratio, r.target, stages,
            r.batch_size, r.epochs, rate(r.blr),
        ]  # fmt: skip
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


def test_the_finetuning_recipes_are_those_of_the_code() -> None:
    section = PAGE.split("## Fine-tuning")[1].split("\n## ")[0]
    rows = {
        line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `") and "`--" not in line[:5]
    }
    assert list(rows) == list(FINETUNE_RECIPES)
    augmented = {"randaugment": 9.0, "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0}
    for name, r in FINETUNE_RECIPES.items():
        numbers = [r.epochs, r.warmup_epochs, r.batch_size]
        shares = [r.layer_decay, r.drop_path, r.weight_decay, r.crop_scale[0], r.ema]
        cells = [*(f"{n:g}" for n in numbers), rate(r.blr), rate(r.min_lr), *(f"{share:g}" for share in shares)]
        assert [cell.strip() for cell in rows[name].split("|")[3:-1]] == cells
        assert {k: getattr(r, k) for k in augmented} == (
            dict.fromkeys(augmented, 0.0) if name == "plain" else augmented
        )
        assert (r.label_smoothing, r.crop_scale[1]) == (0.1, 1.0)


def rate(value: float) -> str:
    """1.5e-4, 1e-3, 0."""
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-") if value else "0"


def test_the_page_knows_no_flag_that_the_code_has_not() -> None:
    known = {f.name.replace("_", "-") for config in COMMANDS.values() for f in fields(config)}
    named = set(re.findall(r"`--([a-z-]+)", PAGE + WEIGHTS_PAGE))
    assert {name.removeprefix("no-") for name in named} <= known | {"classifier"}


def test_every_line_that_packs_is_one_that_the_command_takes() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("python -m training.pack ")]
    lines = [line for line in lines if "--data" in line]
    assert len(lines) >= 8
    for line in lines:
        config = COMMAND.parse(shlex.split(line)[3:])
        assert config.data
        assert config.out.parent == Path("data")


def test_what_a_recipe_costs_is_what_its_network_is() -> None:
    table = PAGE.split("## What a recipe costs")[1].split("\n\n")[1]
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]}
    assert list(rows) == list(RECIPES)
    for name, recipe in RECIPES.items():
        info = PackInfo(
            name=name, source=name, size=recipe.pack_size, channels=3, num_images=1, num_corrupt=0, shards={},
            classes=None, mean=(0.5,) * 3, std=(0.5,) * 3,
        )  # fmt: skip
        config = recipe.network(info)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in MaskedAutoencoder(config).parameters()) / 1e6
        flops = pretrain_flops(config, num_keep(config.num_patches, recipe.mask_ratio), config.num_patches) / 1e9
        assert rows[name][:2] == [f"{parameters:.1f}", f"{flops:.3g}"]
        assert rows[name][4] == f"{16 * parameters / 1000:.1f}"
